//! Small packets in memory that both ends see, for as long as the reader looks without sleeping.
//!
//! Each end has a box of its own, which it alone can write and the other end has mapped for reading: what it says, how far
//! it has read of the other's box, and whether it looks just now. A writer uses its box only while the reader looks. A
//! reader that stops looking says so and looks once more; a writer that has put something asks once more whether the
//! reader looks, and if not rings over the socket. Between the two orders of these four nothing is left unseen, which the
//! tests check for every interleaving.
//!
//! Packets keep their order although some go over the socket: each letter says how many packets of the socket were before
//! it. And a packet of the socket comes after whatever lies in the box when it has been received, but for letters that
//! count it.
//!
//! Nothing that is read from the other's box is believed: each number is read once, and checked; what it says wrongly about
//! itself ends the link.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Words of one letter: its stamp, how many packets of the socket were before it, its length, and its bytes.
const LETTER_WORDS: usize = 32;
const STAMP: usize = 0;
const AFTER: usize = 1;
const LEN: usize = 2;
const BYTES: usize = 3;

/// The longest letter, in bytes: a message of some tens of bytes, an acknowledgement, or where a chunk lies.
pub(super) const LETTER_BYTES_MAX: usize = (LETTER_WORDS - BYTES) * size_of::<u64>();

/// How far this end has read, and whether it looks: in lines of their own, since the other end reads them all the time.
const READ: usize = 0;
const LOOKS: usize = 8;
const LETTERS: usize = 16;

/// Letters in a box: more than are under way before their reader has seen the first.
const LETTERS_MAX: usize = 64;

/// Bytes of a box.
pub(super) const BOX_BYTES: u64 = ((LETTERS + LETTERS_MAX * LETTER_WORDS) * size_of::<u64>()) as u64;

/// A word of memory that two processes see. Loads and stores are relaxed, since one of the two has it for reading only; the
/// order is made by fences.
pub(crate) trait Word {
    fn load(&self) -> u64;
    fn store(&self, value: u64);
    fn fence(order: Ordering);
}

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        self.load(Ordering::Relaxed)
    }

    fn store(&self, value: u64) {
        self.store(value, Ordering::Relaxed);
    }

    fn fence(order: Ordering) {
        fence(order);
    }
}

/// What became of a letter that was to be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// It lies there, and its reader looks.
    Seen,
    /// It lies there, and its reader has to be told over the socket.
    Ring,
    /// It has to go over the socket: it is too long, the box is full, or nobody looks.
    No,
}

/// What lies in the other end's box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// A letter of so many bytes.
    Letter(usize),
    /// A letter that comes after packets which have not been received.
    Later,
    Nothing,
}

/// The other end says what can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lie(pub(super) &'static str);

/// How far one end is with both boxes. Counts letters since the boxes were made.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    written: u64,
    /// How far the other end has read, as it was last seen.
    seen: u64,
    read: u64,
}

impl Mailbox {
    /// Puts a letter, which is `head` and then `rest`, after so many packets of the socket.
    pub(super) fn put<W: Word>(
        &mut self,
        ours: &[W],
        theirs: &[W],
        after: u64,
        [head, rest]: [&[u8]; 2],
    ) -> Result<Put, Lie> {
        let len = head.len() + rest.len();
        if len > LETTER_BYTES_MAX || theirs[LOOKS].load() != 1 || !self.has_room(theirs, letters(ours))? {
            return Ok(Put::No);
        }
        let letter = letter(ours, self.written);
        let mut bytes = [0; LETTER_BYTES_MAX];
        bytes[..head.len()].copy_from_slice(head);
        bytes[head.len()..len].copy_from_slice(rest);
        let words = bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        letter[BYTES..].iter().zip(words.take(len.div_ceil(8))).for_each(|(to, word)| to.store(word));
        letter[LEN].store(len as u64);
        letter[AFTER].store(after);
        W::fence(Ordering::Release);
        self.written += 1;
        letter[STAMP].store(self.written);
        // Before the question, as the reader's last look comes after its answer.
        W::fence(Ordering::SeqCst);
        Ok(if theirs[LOOKS].load() == 1 { Put::Seen } else { Put::Ring })
    }

    fn has_room<W: Word>(&mut self, theirs: &[W], letters: u64) -> Result<bool, Lie> {
        if self.written - self.seen < letters {
            return Ok(true);
        }
        let read = theirs[READ].load();
        // What is written from here on takes the place of what was read before that was said.
        W::fence(Ordering::Acquire);
        if read < self.seen || read > self.written {
            return Err(Lie("more letters were read than there are"));
        }
        self.seen = read;
        Ok(self.written - self.seen < letters)
    }

    /// Whether somebody looks for letters just now.
    pub(super) fn is_looked_at<W: Word>(theirs: &[W]) -> bool {
        theirs[LOOKS].load() == 1
    }

    /// Whether there is a letter.
    pub(super) fn peek<W: Word>(&self, theirs: &[W]) -> bool {
        letter(theirs, self.read)[STAMP].load() == self.read + 1
    }

    /// Takes the next letter, if it comes after no more than `received` packets of the socket.
    pub(super) fn take<W: Word>(
        &mut self,
        ours: &[W],
        theirs: &[W],
        received: u64,
        into: &mut [u8; LETTER_BYTES_MAX],
    ) -> Result<Taken, Lie> {
        if !self.peek(theirs) {
            return Ok(Taken::Nothing);
        }
        W::fence(Ordering::Acquire);
        let letter = letter(theirs, self.read);
        if letter[AFTER].load() > received {
            return Ok(Taken::Later);
        }
        let len = usize::try_from(letter[LEN].load()).ok().filter(|len| *len <= LETTER_BYTES_MAX);
        let len = len.ok_or(Lie("a letter that is longer than any"))?;
        let words = into.as_chunks_mut().0.iter_mut().take(len.div_ceil(8));
        words.zip(&letter[BYTES..]).for_each(|(to, word)| *to = word.load().to_le_bytes());
        self.read += 1;
        W::fence(Ordering::Release);
        ours[READ].store(self.read);
        Ok(Taken::Letter(len))
    }

    /// Says that this end looks from here on, or doesn't. Look once more after the latter.
    pub(super) fn look<W: Word>(ours: &[W], begins: bool) {
        ours[LOOKS].store(u64::from(begins));
        W::fence(Ordering::SeqCst);
    }
}

/// A box as a process can write it that keeps no rule: of each letter its stamp, what it comes after, its length and its bytes.
pub(crate) fn forged<'a>(letters: impl IntoIterator<Item = ([u64; 3], &'a [u8])>) -> Vec<u8> {
    let mut words = vec![0_u64; BOX_BYTES as usize / size_of::<u64>()];
    for (letter, (numbers, bytes)) in words[LETTERS..].chunks_mut(LETTER_WORDS).zip(letters) {
        letter[..BYTES].copy_from_slice(&numbers);
        let mut padded = [0; LETTER_BYTES_MAX];
        let len = bytes.len().min(LETTER_BYTES_MAX);
        padded[..len].copy_from_slice(&bytes[..len]);
        letter[BYTES..].iter_mut().zip(padded.as_chunks().0).for_each(|(to, word)| *to = u64::from_le_bytes(*word));
    }
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn letters<W>(of: &[W]) -> u64 {
    ((of.len() - LETTERS) / LETTER_WORDS) as u64
}

fn letter<W>(of: &[W], number: u64) -> &[W] {
    let at = LETTERS + (number % letters(of)) as usize * LETTER_WORDS;
    &of[at..at + LETTER_WORDS]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use loom::sync::atomic as modelled;

    use super::*;

    impl Word for modelled::AtomicU64 {
        fn load(&self) -> u64 {
            self.load(Ordering::Relaxed)
        }

        fn store(&self, value: u64) {
            self.store(value, Ordering::Relaxed);
        }

        fn fence(order: Ordering) {
            modelled::fence(order);
        }
    }

    fn made<W>(letters: usize, word: impl Fn() -> W) -> Vec<W> {
        (0..LETTERS + letters * LETTER_WORDS).map(|_| word()).collect()
    }

    fn plain(letters: usize) -> Vec<AtomicU64> {
        made(letters, || AtomicU64::new(0))
    }

    /// Two ends of so many letters each, the first of which writes.
    fn two(letters: usize) -> ([Vec<AtomicU64>; 2], Mailbox, Mailbox) {
        let boxes = [plain(letters), plain(letters)];
        Mailbox::look(&boxes[1], true);
        (boxes, Mailbox::default(), Mailbox::default())
    }

    fn taken(reader: &mut Mailbox, boxes: &[Vec<AtomicU64>; 2], received: u64) -> Result<Option<Vec<u8>>, Lie> {
        let mut into = [0; LETTER_BYTES_MAX];
        Ok(match reader.take(&boxes[1], &boxes[0], received, &mut into)? {
            Taken::Letter(len) => Some(into[..len].to_vec()),
            Taken::Later | Taken::Nothing => None,
        })
    }

    #[test]
    fn letters_arrive_as_they_were_put_and_a_full_box_takes_none() {
        let ([ours, theirs], mut writer, mut reader) = two(2);
        let boxes = [ours, theirs];
        for round in 0..5_u8 {
            for letter in [vec![round; 7], vec![round; LETTER_BYTES_MAX]] {
                assert_eq!(writer.put(&boxes[0], &boxes[1], 0, [&letter[..3], &letter[3..]]), Ok(Put::Seen));
            }
            assert_eq!(writer.put(&boxes[0], &boxes[1], 0, [b"x", b""]), Ok(Put::No), "it is full");
            assert_eq!(taken(&mut reader, &boxes, 0), Ok(Some(vec![round; 7])));
            assert_eq!(taken(&mut reader, &boxes, 0), Ok(Some(vec![round; LETTER_BYTES_MAX])));
            assert_eq!(taken(&mut reader, &boxes, 0), Ok(None));
        }
        assert_eq!(writer.put(&boxes[0], &boxes[1], 0, [&[0; LETTER_BYTES_MAX + 1], b""]), Ok(Put::No));
    }

    #[test]
    fn a_letter_waits_for_the_packets_that_were_before_it() {
        let (boxes, mut writer, mut reader) = two(4);
        assert_eq!(writer.put(&boxes[0], &boxes[1], 3, [b"late", b""]), Ok(Put::Seen));
        let mut into = [0; LETTER_BYTES_MAX];
        assert_eq!(reader.take(&boxes[1], &boxes[0], 2, &mut into), Ok(Taken::Later));
        assert_eq!(taken(&mut reader, &boxes, 3), Ok(Some(b"late".to_vec())));
    }

    #[test]
    fn nothing_is_put_for_one_who_does_not_look() {
        let (boxes, mut writer, _) = two(4);
        assert!(Mailbox::is_looked_at(&boxes[1]));
        Mailbox::look(&boxes[1], false);
        assert!(!Mailbox::is_looked_at(&boxes[1]));
        assert_eq!(writer.put(&boxes[0], &boxes[1], 0, [b"x", b""]), Ok(Put::No));
    }

    #[test]
    fn what_can_not_be_is_a_lie() {
        let (boxes, mut writer, mut reader) = two(1);
        assert_eq!(writer.put(&boxes[0], &boxes[1], 0, [b"x", b""]), Ok(Put::Seen));
        boxes[0][LETTERS + LEN].store(LETTER_BYTES_MAX as u64 + 1, Ordering::Relaxed);
        assert!(taken(&mut reader, &boxes, 0).is_err(), "longer than any");
        boxes[1][READ].store(2, Ordering::Relaxed);
        assert!(writer.put(&boxes[0], &boxes[1], 0, [b"x", b""]).is_err(), "more than was written");
        boxes[1][READ].store(1, Ordering::Relaxed);
        assert_eq!(writer.put(&boxes[0], &boxes[1], 0, [b"x", b""]), Ok(Put::Seen));
        boxes[1][READ].store(0, Ordering::Relaxed);
        assert!(writer.put(&boxes[0], &boxes[1], 0, [b"x", b""]).is_err(), "less than before");
    }

    /// Every interleaving, and every order in which stores may be seen, of a writer and a reader that stops looking.
    #[test]
    fn no_letter_is_torn_or_left_unseen_by_one_who_stops_looking() {
        loom::model(|| {
            let new = || modelled::AtomicU64::new(0);
            let [writers, readers] = [Arc::new(made(1, new)), Arc::new(made(1, new))];
            Mailbox::look(&readers[..], true);
            let theirs = [Arc::clone(&writers), Arc::clone(&readers)];
            let writing = loom::thread::spawn(move || {
                let [ours, theirs] = theirs;
                let mut mailbox = Mailbox::default();
                // The second takes the first one's place, if that was read.
                let puts = [1, 2].map(|letter: u8| mailbox.put(&ours[..], &theirs[..], 0, [&[letter; 16], b""]));
                (mailbox.written, puts.contains(&Ok(Put::Ring)))
            });
            let (mut mailbox, mut into) = (Mailbox::default(), [0; LETTER_BYTES_MAX]);
            let mut take = |mailbox: &mut Mailbox| {
                while let Taken::Letter(len) = mailbox.take(&readers[..], &writers[..], 0, &mut into).expect("no lie") {
                    assert_eq!(into[..len], [mailbox.read as u8; 16], "torn, or out of turn");
                }
            };
            take(&mut mailbox);
            Mailbox::look(&readers[..], false);
            take(&mut mailbox);
            let (written, rang) = writing.join().expect("no panic");
            assert!(mailbox.read == written || rang, "{} of {written} were seen, and nobody rang", mailbox.read);
        });
    }
}
