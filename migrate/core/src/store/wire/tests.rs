//! Everything that is encoded is decoded alike, and nothing that is decoded panics or allocates without bound.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::super::records::{DrainOrder, PeerClaim};
use super::super::{Service, ServiceLimits};
use super::*;

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn found() -> impl Strategy<Value = Versioned> {
    (any::<u64>(), bytes(300), any::<u32>()).prop_map(|(version, value, age_ms)| Versioned {
        version: Version(version),
        value,
        age: Duration::from_millis(age_ms.into()),
    })
}

fn request() -> impl Strategy<Value = Request> {
    let key = "[ -~]{0,256}";
    prop_oneof![
        key.prop_map(|key| Request::Get { key }),
        (key, any::<[u64; 3]>(), any::<bool>(), bytes(300)).prop_map(
            |(key, [expected, client, sequence], again, value)| {
                Request::Swap(SwapRequest {
                    key,
                    expected: Version(expected),
                    token: Token { client, sequence },
                    again,
                    value,
                })
            }
        ),
        (key, any::<u64>(), any::<u32>()).prop_map(|(key, newer_than, timeout_ms)| Request::Wait {
            key,
            newer_than: Version(newer_than),
            timeout: Duration::from_millis(timeout_ms.into()),
        }),
        (key, key).prop_map(|(prefix, after)| Request::List { prefix, after }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::InvalidKey),
        Just(Refusal::Forgotten),
        Just(Refusal::Busy),
        any::<u64>().prop_map(|len_bytes| Refusal::ValueTooLong { len_bytes }),
        any::<u64>().prop_map(|keys_max| Refusal::TooManyKeys { keys_max }),
        any::<u64>().prop_map(|total_bytes_max| Refusal::OutOfBytes { total_bytes_max }),
        any::<u64>().prop_map(|version| Refusal::NeverWritten { expected: Version(version) }),
        "\\PC{0,100}".prop_map(Refusal::Malformed),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        prop::option::of(found()).prop_map(Answer::Value),
        any::<u64>().prop_map(|version| Answer::Swapped(Swap::Won(Version(version)))),
        found().prop_map(|found| Answer::Swapped(Swap::Lost(found))),
        (prop::collection::vec(("[ -~]{0,256}", found()), 0..5), any::<bool>())
            .prop_map(|(entries, more)| Answer::Page { entries, more }),
        refusal().prop_map(Answer::Refused),
    ]
}

/// The body of the one frame in `frame`, after the checks that a receiver makes.
fn body(frame: &[u8]) -> &[u8] {
    let head = *frame.first_chunk().expect("a whole head");
    let body = &frame[FRAME_HEAD_BYTES..];
    assert_eq!(body_len_bytes(head), Ok(body.len()));
    assert_eq!(check_body(head, body), Ok(()));
    body
}

/// Feeds bytes to everything that takes bytes from outside. The outcome is of no interest, that there is one is.
fn decode_all(bytes: &[u8]) {
    let _ = Request::decode(bytes);
    let _ = Answer::decode(bytes);
    let _ = PeerClaim::decode(bytes);
    let _ = DrainOrder::decode(bytes);
    let _ = read_hello(bytes);
    if let Some(welcome) = bytes.first_chunk() {
        let _ = read_welcome(welcome);
    }
    let mut service = Service::new(1, ServiceLimits::default());
    let now = xfer_transport_core::Time::ZERO;
    let id = service.open(now).expect("there is room for one client");
    service.receive(now, id, bytes);
    service.sent(now, id, usize::MAX);
}

proptest! {
    #[test]
    fn requests_come_out_as_they_went_in(request in request()) {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        prop_assert_eq!(Request::decode(body(&frame)), Ok(request));
    }

    #[test]
    fn answers_come_out_as_they_went_in(answer in answer()) {
        let mut frame = Vec::new();
        answer.encode(&mut frame);
        prop_assert_eq!(Answer::decode(body(&frame)), Ok(answer));
    }

    #[test]
    fn any_bytes_are_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_all(&bytes);
    }

    #[test]
    fn damaged_frames_are_decoded_without_panic(
        request in request(),
        answer in answer(),
        at in any::<prop::sample::Index>(),
        bits in 1..=255_u8,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = hello().to_vec();
        request.encode(&mut stream);
        let mut frame = Vec::new();
        answer.encode(&mut frame);
        for bytes in [&mut stream, &mut frame] {
            let index = at.index(bytes.len());
            bytes[index] ^= bits;
            decode_all(bytes);
            decode_all(&bytes[FRAME_HEAD_BYTES..]);
            bytes.truncate(cut.index(bytes.len()));
            decode_all(bytes);
        }
    }

    #[test]
    fn a_flipped_bit_of_a_body_is_noticed(request in request(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        let head = *frame.first_chunk().unwrap();
        let body = &mut frame[FRAME_HEAD_BYTES..];
        let index = at.index(body.len());
        body[index] ^= 1_u8 << bit;
        prop_assert!(check_body(head, body).is_err());
    }

    #[test]
    fn every_prefix_of_a_body_is_truncated(request in request(), cut in any::<prop::sample::Index>()) {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        let body = body(&frame);
        let cut = &body[..cut.index(body.len())];
        prop_assert!(matches!(Request::decode(cut), Err(DecodeError::Truncated { .. })), "{cut:?}");
    }
}

#[test]
fn a_frame_is_refused_by_its_announced_length_alone() {
    let head = |len_bytes: usize| {
        let mut head = [0; FRAME_HEAD_BYTES];
        head[..4].copy_from_slice(&(len_bytes as u32).to_le_bytes());
        head
    };
    let max = limits::FRAME_BODY_BYTES_MAX;
    assert_eq!(body_len_bytes(head(max)), Ok(max));
    assert!(matches!(body_len_bytes(head(max + 1)), Err(FrameError::TooLong { .. })));
    assert!(matches!(body_len_bytes([0xff; FRAME_HEAD_BYTES]), Err(FrameError::TooLong { .. })));
}

#[test]
fn counts_and_lengths_that_the_bytes_do_not_hold_are_refused() {
    let page_of_many = [5, 0, 0x00, 0x10, 0, 0];
    assert!(matches!(Answer::decode(&page_of_many), Err(DecodeError::Truncated { .. })));
    let page_of_too_many = [5, 0, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(Answer::decode(&page_of_too_many), Err(DecodeError::TooLong { .. })));
    let long_key = [1, 0xff, 0xff, 0xff, 0xff];
    assert!(matches!(Request::decode(&long_key), Err(DecodeError::TooLong { .. })));
    let trailing = [1, 1, 0, 0, 0, b'k', 0];
    assert_eq!(Request::decode(&trailing), Err(DecodeError::Trailing { len_bytes: 1 }));
}

#[test]
fn the_largest_swap_fits_a_frame() {
    let request = Request::Swap(SwapRequest {
        key: "k".repeat(limits::KEY_LEN_BYTES_MAX),
        expected: Version(1),
        token: Token { client: 1, sequence: 1 },
        again: false,
        value: vec![1; limits::VALUE_LEN_BYTES_MAX].into(),
    });
    let mut frame = Vec::new();
    request.encode(&mut frame);
    assert_eq!(Request::decode(body(&frame)), Ok(request));
}

#[test]
fn greetings_name_what_is_wrong() {
    assert_eq!(read_hello(&hello()), Some(Ok(())));
    assert_eq!(read_hello(&hello()[..15]), None);
    assert_eq!(read_hello(b"G"), Some(Err(GreetingError::NotThisProtocol)));
    let mut newer = hello();
    newer[10] = 9;
    assert_eq!(read_hello(&newer), Some(Err(GreetingError::OtherVersion { theirs: 9 })));

    assert_eq!(read_welcome(&welcome(Ok(77))), Ok(77));
    assert_eq!(read_welcome(&welcome(Err(GreetingError::Full))), Err(GreetingError::Full));
    assert_eq!(read_welcome(b"HTTP/1.1 400 Bad Request"), Err(GreetingError::NotThisProtocol));
    let mut newer = welcome(Err(GreetingError::OtherVersion { theirs: VERSION }));
    newer[10] = 9;
    assert_eq!(read_welcome(&newer), Err(GreetingError::OtherVersion { theirs: 9 }));
    assert_eq!(
        GreetingError::OtherVersion { theirs: 9 }.to_string(),
        "it speaks version 9 of the `xfer store` protocol, this is version 1"
    );
}

#[test]
fn what_fuzzing_found_interesting_is_still_decoded() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/store");
    let mut files = 0;
    for entry in fs::read_dir(&corpus).expect("the corpus is part of the repository") {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        decode_all(&bytes);
        files += 1;
    }
    assert!(files >= 10, "{files} files in {}", corpus.display());
}
