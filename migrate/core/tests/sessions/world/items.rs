//! What the source of a world owns.

use std::time::Duration;

use xfer_migrate_core::{GroupId, Item, ItemClass, ItemId, RecomputeCost};

use super::{LEFT, RIGHT, SOURCE};

/// The id of the item of this name.
pub fn id(name: &str) -> ItemId {
    let place = NAMES.iter().position(|known| *known == name).expect("the name is in the table");
    ItemId(place as u64 + 1)
}

const NAMES: [&str; 10] = [
    "rng",
    "layer.4.weight",
    "layer.4.adam",
    "layer.6.weight",
    "layer.6.adam",
    "layer.6.grad",
    "input.4",
    "layer.4.saved",
    "layer.6.input",
    "layer.6.saved",
];

pub fn owners_before() -> Vec<(String, u32)> {
    vec![
        ("layers.0-3".to_owned(), LEFT.rank),
        ("layers.4-7".to_owned(), SOURCE.rank),
        ("layers.8-11".to_owned(), RIGHT.rank),
    ]
}

/// Two layers: one goes to either side. The right layer's input is computed from the left layer's saved tensors, so
/// what the right side recomputes may need what the left side has.
pub fn standard_items() -> Vec<Item> {
    use ItemClass::*;
    let forward = |ms, from: &[&str]| RecomputeCost::Compute {
        time: Duration::from_millis(ms),
        from: from.iter().map(|name| id(name)).collect(),
    };
    let item = |name: &str, class, bytes, target, cost| Item {
        id: id(name),
        name: name.into(),
        class,
        bytes,
        version: 41,
        target,
        group: GroupId::ALONE,
        cost,
    };
    let lost = || RecomputeCost::Irreplaceable;
    vec![
        item("rng", Rng, 5000, LEFT.rank, lost()),
        item("layer.4.weight", Parameter, 1_000_000, LEFT.rank, lost()),
        item("layer.4.adam", OptimizerState, 2_000_000, LEFT.rank, lost()),
        item("layer.6.weight", Parameter, 1_000_000, RIGHT.rank, lost()),
        item("layer.6.adam", OptimizerState, 2_000_000, RIGHT.rank, lost()),
        item("layer.6.grad", Gradient, 1_000_000, RIGHT.rank, lost()),
        item("input.4", Boundary, 20_000, LEFT.rank, lost()),
        item("layer.4.saved", Saved, 500_000, LEFT.rank, forward(400, &["layer.4.weight", "input.4"])),
        item("layer.6.input", Boundary, 20_000, RIGHT.rank, forward(400, &["layer.4.saved"])),
        item("layer.6.saved", Saved, 500_000, RIGHT.rank, forward(300, &["layer.6.weight", "layer.6.input"])),
    ]
}
