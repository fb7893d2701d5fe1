"""The parts of the example `spot_handoff.py`: a small GPT, its nodes, their launcher, and what is told of them."""
