//! How each row of the matrix is staged here: its name, and what is done.

use xfer_chaos::Action::{Duplicate, FlipHeader, FlipPayload, NextVersion, Oversize, Reset, Swap, Truncate};
use xfer_transport_core::frame::FrameKind::{Data, Greeting, Link, Message};

use crate::faults::{Fault, Part};
use crate::net::{Net, Stranger};
use crate::rdma::Rdma;

/// What is done for a row of this name; none if nobody here knows how.
pub fn fault(name: &str) -> Option<Fault> {
    Some(match name {
        "source_killed" => Fault::Kill(Part::Source),
        "target_killed" => Fault::Kill(Part::Target),
        "store_killed" => Fault::Kill(Part::Store),
        "journal_full" => Fault::JournalFull,
        "source_zombie" => Fault::Zombie(Part::Source),
        "target_zombie" => Fault::Zombie(Part::Target),
        "processors_busy" => Fault::Starve,
        "second_term" => Fault::SecondTerm,
        "term_then_kill" => Fault::TermThenKill,
        "target_leaves_too" => Fault::TargetNotice,
        "no_room" => Fault::NoRoom,
        "withdrawn" => Fault::Withdraw,
        "deadline_now" => Fault::DeadlineNow,
        "few_files" => Fault::FewFiles,
        "files_used_up" => Fault::FilesUsedUp,
        "source_changes" => Fault::SourceChanges,
        "long_pause" => Fault::Freeze,
        "other_job" => Fault::OtherJob,
        "worker_panics" => Fault::WorkerPanics,
        "port_taken" => Fault::PortTaken,
        "no_memory" => Fault::NoMemory,
        "wrong_layout" => Fault::WrongLayout,
        "wall_clocks_jump" => Fault::ClocksJump,
        "target_stopped" => Fault::TargetStopped,
        "ring_scribbled" => Fault::Scribble,
        "connections_break" => Fault::SharedBreaks,
        "rdma_packets_lost" => Fault::Rdma(Rdma::PacketsLost),
        "rdma_hiccup" => Fault::Rdma(Rdma::Hiccup),
        "cable_shaped" => Fault::Rdma(Rdma::Shaped),
        "cable_jitters" => Fault::Rdma(Rdma::Netem("delay 10ms 5ms rate 1gbit")),
        "packets_twice_and_swapped" => Fault::Rdma(Rdma::Netem("delay 1ms reorder 75% duplicate 25%")),
        "packets_damaged" => Fault::Rdma(Rdma::Netem("corrupt 1%")),
        "pins_used_up" => Fault::Rdma(Rdma::PinsUsedUp),
        "link_down" => Fault::LinkDown,
        "store_unreachable" => Fault::StoreUnreachable,
        "link_shaped" => Fault::LinkShaped,
        _ => Fault::Net(on_the_wire(name)?),
    })
}

fn on_the_wire(name: &str) -> Option<Net> {
    Some(match name {
        "source_cut_off" => Net::Cut,
        "target_not_heard" => Net::OneWay,
        "store_cut_off" => Net::StoreCut,
        "links_flap" => Net::Flap,
        "slow_link" => Net::Slow,
        "latency_and_jitter" => Net::Jitter,
        "message_twice" => Net::Once(Duplicate, Message),
        "acknowledgement_twice" => Net::Once(Duplicate, Link),
        "chunk_twice" => Net::Once(Duplicate, Data),
        "chunks_swapped" => Net::Once(Swap, Data),
        "hello_twice" => Net::Once(Duplicate, Greeting),
        "chunk_flipped" => Net::Once(FlipPayload, Data),
        "hello_garbled" => Net::Once(FlipHeader, Greeting),
        "header_garbled" => Net::Once(FlipHeader, Data),
        "oversized" => Net::Once(Oversize, Data),
        "cut_off_in_a_frame" => Net::Once(Truncate, Data),
        "hello_reset" => Net::Once(Reset, Greeting),
        "link_reset" => Net::Once(Reset, Data),
        "control_link_reset" => Net::Once(Reset, Message),
        "slow_reader" => Net::SlowReader,
        "silent_strangers" => Net::Stranger(Stranger::Silent),
        "stranger_babbles" => Net::Stranger(Stranger::Babbling),
        "stranger_of_another_job" => Net::Stranger(Stranger::OfAnotherJob),
        "message_flipped" => Net::Once(FlipPayload, Message),
        "next_version_comes_back" => Net::NextVersion,
        "chunks_late" => Net::Late,
        "chunk_replayed" => Net::Replay,
        "next_version" => Net::Always(NextVersion, Greeting),
        _ => return None,
    })
}
