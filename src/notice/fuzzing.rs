//! What comes from outside as a notice, for fuzz targets: each function says whether the bytes were any good.

use std::io;
use std::path::Path;
use std::time::Duration;

use xfer_migrate::store::records::DrainOrder;
use xfer_transport_core::PeerId;

use super::{Notice, Shared, drain, ec2, file, http, limits};

/// A grace that no test waits for.
const GRACE: Duration = Duration::from_secs(30);

/// What is in a notice file.
pub fn notice_file(content: &[u8]) -> bool {
    let notice = file::notice(Path::new("notice"), content, GRACE);
    assert_bounded(&notice);
    file::said(content).is_some()
}

/// What a metadata service answers, in parts of `part_bytes`: however it is cut, it means the same.
pub fn metadata_answer(bytes: &[u8], part_bytes: usize) -> bool {
    let read = |part_bytes: usize| {
        let mut parts = bytes.chunks(part_bytes);
        http::read_response(|chunk| {
            let part = parts.next().unwrap_or_default();
            chunk.get_mut(..part.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(part);
            Ok(part.len())
        })
        .ok()
    };
    let found = read(part_bytes.clamp(1, 2048));
    assert_eq!(found, read(2048), "in parts it means something else");
    let Some(response) = found else { return false };
    assert!(response.body.len() <= limits::HTTP_BODY_BYTES_MAX);
    metadata_body(&response.body)
}

/// What a metadata service says of the end.
pub fn metadata_body(body: &str) -> bool {
    let found = [ec2::interruption_notice(body), ec2::rebalance_notice(body)];
    found.iter().flatten().for_each(assert_bounded);
    found.iter().any(Result::is_ok)
}

/// Where a metadata service is. What is accepted goes into a request as it is.
pub fn metadata_url(url: &str) -> bool {
    let Some(server) = http::Server::parse(url) else { return false };
    let (address, host) = server.parts();
    assert!(host.bytes().all(|byte| byte.is_ascii_graphic()), "{host:?} would end its line");
    assert!(address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()), "{address:?} has no port");
    true
}

/// What the store holds as an order to this process. It says whether a notice came of it.
pub fn drain_order(value: &[u8], age: Duration) -> bool {
    let peer = PeerId { rank: 1, incarnation: 1 };
    let Ok(order) = DrainOrder::decode(value) else { return false };
    let shared = Shared::default();
    drain::follow(&shared, peer, &order, age);
    let board = shared.board();
    board.counts().into_iter().for_each(assert_bounded);
    let is_ours = order.incarnation == peer.incarnation;
    assert_eq!(board.counts().is_some(), is_ours && order.left.is_some(), "{order:?}");
    is_ours
}

fn assert_bounded(notice: &Notice) {
    assert!(notice.left() <= limits::LEFT_MAX);
    let _ = notice.to_string();
}
