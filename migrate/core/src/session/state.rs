//! States as tables: which event leads from which state to which, and nothing else does.

use super::Violation;

/// One row of a table: an event, the state in which it may happen, and the state it leads to.
pub type Transition = (&'static str, &'static str, &'static str);

/// Declares a state enum and its events from one table. An event that isn't in the table for the present state is an
/// error and changes nothing.
macro_rules! states {
    (
        $(#[$attribute:meta])*
        pub enum $name:ident { $( $(#[$state_attribute:meta])* $state:ident, )+ }
        $( $(#[$event_attribute:meta])* $event:ident( $( $( $from:ident )|+ => $to:ident ),+ ); )+
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $( $(#[$state_attribute])* $state, )+ }

        impl $name {
            /// The states, in the order in which they are usually passed.
            pub const ALL: &'static [Self] = &[ $( Self::$state, )+ ];

            const TABLE: &'static [$crate::session::state::Transition] = &[
                $( $( $( (stringify!($event), stringify!($from), stringify!($to)), )+ )+ )+
            ];

            /// The state's name.
            pub fn name(self) -> &'static str {
                match self { $( Self::$state => stringify!($state), )+ }
            }

            /// The whole table: (event, state before, state after).
            pub fn transitions() -> &'static [$crate::session::state::Transition] {
                Self::TABLE
            }

            /// The table as a graph, in the language of Graphviz.
            pub fn dot() -> String {
                $crate::session::state::dot(stringify!($name), Self::TABLE)
            }

            $(
                $(#[$event_attribute])*
                pub(in crate::session) fn $event(&mut self) -> Result<(), $crate::session::Violation> {
                    *self = match *self {
                        $( $( Self::$from )|+ => Self::$to, )+
                        #[allow(unreachable_patterns)] // Some events are possible in every state.
                        state => return Err($crate::session::state::not_now(stringify!($event), state.name())),
                    };
                    Ok(())
                }
            )+
        }
    };
}

pub(super) use states;

pub(super) fn not_now(event: &'static str, state: &'static str) -> Violation {
    Violation::NotNow { what: event.trim_start_matches("on_"), state }
}

pub(super) fn dot(name: &str, table: &[Transition]) -> String {
    let edges: String =
        table.iter().map(|(event, from, to)| format!("    {from} -> {to} [label = \"{event}\"];\n")).collect();
    format!("digraph {name} {{\n{edges}}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    states! {
        /// An example.
        pub enum Door {
            /// Nobody passes.
            Closed,
            /// Everybody passes.
            Open,
            /// Nobody passes ever again.
            Walled,
        }

        on_open(Closed => Open);
        on_push(Closed => Open, Open => Closed);
        on_wall(Closed | Open | Walled => Walled);
    }

    #[test]
    fn an_event_of_the_table_leads_where_it_says() {
        for (event, from, to) in Door::transitions() {
            let named = |name: &str| *Door::ALL.iter().find(|state| state.name() == name).expect("it is a state");
            let mut door = named(from);
            let result = match *event {
                "on_open" => door.on_open(),
                "on_push" => door.on_push(),
                _ => door.on_wall(),
            };
            assert_eq!((result, door), (Ok(()), named(to)));
        }
    }

    #[test]
    fn any_other_event_is_an_error_and_changes_nothing() {
        let mut door = Door::Open;
        assert_eq!(door.on_open(), Err(Violation::NotNow { what: "open", state: "Open" }));
        assert_eq!(door, Door::Open);
        let mut door = Door::Walled;
        assert_eq!(door.on_push().map_err(|error| error.to_string()), Err("push is impossible in state Walled".into()));
        assert_eq!(door, Door::Walled);
    }

    #[test]
    fn the_graph_has_an_edge_for_each_row() {
        let dot = Door::dot();
        assert!(dot.starts_with("digraph Door {\n    Closed -> Open [label = \"on_open\"];\n"), "{dot}");
        assert_eq!(dot.lines().count(), Door::transitions().len() + 2);
    }
}
