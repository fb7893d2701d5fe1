//! Fingerprints of values, 128 bits each: two states with one fingerprint are taken for one state.
//!
//! With 10^8 states the chance that any two of them share one by accident is below 10^-22.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::Arc;

/// A fingerprint.
pub type Print = u128;

/// Odd, and without a pattern: the digits of pi in hexadecimal.
const FACTOR: u128 = 0x2437_f6a8_885a_308d_3131_98a2_e037_0735;

/// The fingerprint of what `value` feeds into a hasher. The same in every run of one build.
pub fn print_of(value: &(impl Hash + ?Sized)) -> Print {
    print_by(|printer| value.hash(printer))
}

/// The fingerprint of what `feed` feeds into a hasher.
pub fn print_by(feed: impl FnOnce(&mut Printer)) -> Print {
    let mut printer = Printer(FACTOR);
    feed(&mut printer);
    printer.stir(0);
    printer.0
}

/// Each step is a bijection of what came before, so nothing that went in is ever forgotten as a whole.
pub struct Printer(u128);

impl Printer {
    fn stir(&mut self, word: u64) {
        self.0 = (self.0 ^ u128::from(word)).wrapping_mul(FACTOR);
        self.0 ^= self.0 >> 71;
    }
}

impl Hasher for Printer {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.stir(u64::from_le_bytes(*word));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            // Its length keeps it apart from the same bytes followed by zeros.
            self.stir(u64::from_le_bytes(last) ^ ((rest.len() as u64) << 56));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.stir(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.stir(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.stir(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.stir(value as u64);
    }

    fn finish(&self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// A shared value with its fingerprint, which stands for it wherever it is hashed or compared.
#[derive(Debug)]
pub struct Printed<T> {
    value: Arc<T>,
    print: Print,
}

impl<T: Hash> Printed<T> {
    /// Takes the fingerprint of `value`.
    pub fn new(value: T) -> Self {
        Self { print: print_of(&value), value: Arc::new(value) }
    }
}

impl<T> Printed<T> {
    /// A value with a fingerprint of less than all of it.
    pub fn with(value: T, print: Print) -> Self {
        Self { print, value: Arc::new(value) }
    }

    /// The fingerprint.
    pub fn print(&self) -> Print {
        self.print
    }
}

impl<T> Clone for Printed<T> {
    fn clone(&self) -> Self {
        Self { value: Arc::clone(&self.value), print: self.print }
    }
}

impl<T> Deref for Printed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Hash for Printed<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.print as u64);
        state.write_u64((self.print >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn values_that_differ_anywhere_have_different_prints() {
        let mut prints = BTreeSet::new();
        for length in 0..64_usize {
            prints.insert(print_of(&vec![0_u8; length]));
            for bit in 0..length * 8 {
                let mut bytes = vec![0_u8; length];
                bytes[bit / 8] |= 1 << (bit % 8);
                prints.insert(print_of(&bytes));
            }
        }
        assert_eq!(prints.len(), 64 + (0..64).map(|length| length * 8).sum::<usize>());
        assert_ne!(print_of(&("ab", "c")), print_of(&("a", "bc")));
    }

    #[test]
    fn a_printed_value_stands_for_the_value() {
        let (one, same, other) = (Printed::new("a"), Printed::new("a"), Printed::new("b"));
        assert_eq!((print_of(&one), one.print()), (print_of(&same), same.print()));
        assert_ne!(print_of(&one), print_of(&other));
        assert_eq!(*one, "a");
    }
}
