//! Sizes and places of the structures, for whoever compares them with the headers.

use std::mem::offset_of;

use super::abi::{
    AhAttr, AsyncEvent, BindMw, CompChannel, Context, ContextOps, Cq, DeviceAttr, Mr, Mw, PortAttr, Qp, QpAttr, QpCap,
    QpInitAttr, RecvWr, SendWr, Sge, Wc,
};

/// What `<infiniband/verbs.h>` must say on this machine: expressions in C, and what they are here.
pub fn layout() -> Vec<(&'static str, usize)> {
    let ops = offset_of!(Context, ops);
    vec![
        ("sizeof(struct ibv_context_ops)", size_of::<ContextOps>()),
        ("offsetof(struct ibv_context, ops.alloc_mw)", ops + offset_of!(ContextOps, alloc_mw)),
        ("offsetof(struct ibv_context, ops.dealloc_mw)", ops + offset_of!(ContextOps, dealloc_mw)),
        ("offsetof(struct ibv_context, ops.poll_cq)", ops + offset_of!(ContextOps, poll_cq)),
        ("offsetof(struct ibv_context, ops.req_notify_cq)", ops + offset_of!(ContextOps, req_notify_cq)),
        ("offsetof(struct ibv_context, ops.post_send)", ops + offset_of!(ContextOps, post_send)),
        ("offsetof(struct ibv_context, ops.post_recv)", ops + offset_of!(ContextOps, post_recv)),
        ("offsetof(struct ibv_context, async_fd)", offset_of!(Context, async_fd)),
        ("offsetof(struct ibv_mr, lkey)", offset_of!(Mr, lkey)),
        ("offsetof(struct ibv_mr, rkey)", offset_of!(Mr, rkey)),
        ("offsetof(struct ibv_mw, rkey)", offset_of!(Mw, rkey)),
        ("offsetof(struct ibv_comp_channel, fd)", offset_of!(CompChannel, fd)),
        ("offsetof(struct ibv_cq, cq_context)", offset_of!(Cq, cq_context)),
        ("offsetof(struct ibv_qp, qp_context)", offset_of!(Qp, qp_context)),
        ("offsetof(struct ibv_qp, qp_num)", offset_of!(Qp, qp_num)),
        ("sizeof(struct ibv_async_event)", size_of::<AsyncEvent>()),
        ("offsetof(struct ibv_async_event, event_type)", offset_of!(AsyncEvent, event_type)),
        ("sizeof(struct ibv_device_attr)", size_of::<DeviceAttr>()),
        ("offsetof(struct ibv_device_attr, max_qp_wr)", offset_of!(DeviceAttr, max_qp_wr)),
        ("offsetof(struct ibv_device_attr, device_cap_flags)", offset_of!(DeviceAttr, device_cap_flags)),
        ("offsetof(struct ibv_device_attr, max_cqe)", offset_of!(DeviceAttr, max_cqe)),
        ("offsetof(struct ibv_device_attr, max_qp_rd_atom)", offset_of!(DeviceAttr, max_qp_rd_atom)),
        ("offsetof(struct ibv_device_attr, max_qp_init_rd_atom)", offset_of!(DeviceAttr, max_qp_init_rd_atom)),
        ("offsetof(struct ibv_device_attr, max_mw)", offset_of!(DeviceAttr, max_mw)),
        ("offsetof(struct ibv_device_attr, phys_port_cnt)", offset_of!(DeviceAttr, phys_port_cnt)),
        ("sizeof(struct ibv_port_attr)", size_of::<PortAttr>()),
        ("offsetof(struct ibv_port_attr, state)", offset_of!(PortAttr, state)),
        ("offsetof(struct ibv_port_attr, active_mtu)", offset_of!(PortAttr, active_mtu)),
        ("offsetof(struct ibv_port_attr, gid_tbl_len)", offset_of!(PortAttr, gid_tbl_len)),
        ("offsetof(struct ibv_port_attr, max_msg_sz)", offset_of!(PortAttr, max_msg_sz)),
        ("offsetof(struct ibv_port_attr, lid)", offset_of!(PortAttr, lid)),
        ("offsetof(struct ibv_port_attr, phys_state)", offset_of!(PortAttr, phys_state)),
        ("offsetof(struct ibv_port_attr, link_layer)", offset_of!(PortAttr, link_layer)),
        ("sizeof(struct ibv_qp_cap)", size_of::<QpCap>()),
        ("sizeof(struct ibv_qp_init_attr)", size_of::<QpInitAttr>()),
        ("offsetof(struct ibv_qp_init_attr, qp_type)", offset_of!(QpInitAttr, qp_type)),
        ("offsetof(struct ibv_qp_init_attr, sq_sig_all)", offset_of!(QpInitAttr, sq_sig_all)),
        ("sizeof(struct ibv_ah_attr)", size_of::<AhAttr>()),
        ("offsetof(struct ibv_ah_attr, grh.sgid_index)", offset_of!(AhAttr, sgid_index)),
        ("offsetof(struct ibv_ah_attr, grh.hop_limit)", offset_of!(AhAttr, hop_limit)),
        ("offsetof(struct ibv_ah_attr, dlid)", offset_of!(AhAttr, dlid)),
        ("offsetof(struct ibv_ah_attr, is_global)", offset_of!(AhAttr, is_global)),
        ("offsetof(struct ibv_ah_attr, port_num)", offset_of!(AhAttr, port_num)),
        ("sizeof(struct ibv_qp_attr)", size_of::<QpAttr>()),
        ("offsetof(struct ibv_qp_attr, path_mtu)", offset_of!(QpAttr, path_mtu)),
        ("offsetof(struct ibv_qp_attr, rq_psn)", offset_of!(QpAttr, rq_psn)),
        ("offsetof(struct ibv_qp_attr, sq_psn)", offset_of!(QpAttr, sq_psn)),
        ("offsetof(struct ibv_qp_attr, dest_qp_num)", offset_of!(QpAttr, dest_qp_num)),
        ("offsetof(struct ibv_qp_attr, qp_access_flags)", offset_of!(QpAttr, qp_access_flags)),
        ("offsetof(struct ibv_qp_attr, ah_attr)", offset_of!(QpAttr, ah_attr)),
        ("offsetof(struct ibv_qp_attr, max_rd_atomic)", offset_of!(QpAttr, max_rd_atomic)),
        ("offsetof(struct ibv_qp_attr, max_dest_rd_atomic)", offset_of!(QpAttr, max_dest_rd_atomic)),
        ("offsetof(struct ibv_qp_attr, min_rnr_timer)", offset_of!(QpAttr, min_rnr_timer)),
        ("offsetof(struct ibv_qp_attr, port_num)", offset_of!(QpAttr, port_num)),
        ("offsetof(struct ibv_qp_attr, timeout)", offset_of!(QpAttr, timeout)),
        ("offsetof(struct ibv_qp_attr, retry_cnt)", offset_of!(QpAttr, retry_cnt)),
        ("offsetof(struct ibv_qp_attr, rnr_retry)", offset_of!(QpAttr, rnr_retry)),
        ("sizeof(struct ibv_sge)", size_of::<Sge>()),
        ("offsetof(struct ibv_sge, lkey)", offset_of!(Sge, lkey)),
        ("sizeof(struct ibv_send_wr)", size_of::<SendWr>()),
        ("offsetof(struct ibv_send_wr, opcode)", offset_of!(SendWr, opcode)),
        ("offsetof(struct ibv_send_wr, send_flags)", offset_of!(SendWr, send_flags)),
        ("offsetof(struct ibv_send_wr, invalidate_rkey)", offset_of!(SendWr, invalidate_rkey)),
        ("offsetof(struct ibv_send_wr, wr.rdma.remote_addr)", offset_of!(SendWr, remote_addr)),
        ("offsetof(struct ibv_send_wr, wr.rdma.rkey)", offset_of!(SendWr, rkey)),
        ("offsetof(struct ibv_send_wr, bind_mw.mw)", offset_of!(SendWr, bind)),
        ("offsetof(struct ibv_send_wr, bind_mw.rkey)", offset_of!(SendWr, bind) + offset_of!(BindMw, rkey)),
        ("offsetof(struct ibv_send_wr, bind_mw.bind_info)", offset_of!(SendWr, bind) + offset_of!(BindMw, mr)),
        (
            "offsetof(struct ibv_send_wr, bind_mw.bind_info.mw_access_flags)",
            offset_of!(SendWr, bind) + offset_of!(BindMw, access),
        ),
        ("sizeof(struct ibv_recv_wr)", size_of::<RecvWr>()),
        ("offsetof(struct ibv_recv_wr, num_sge)", offset_of!(RecvWr, num_sge)),
        ("sizeof(struct ibv_wc)", size_of::<Wc>()),
        ("offsetof(struct ibv_wc, status)", offset_of!(Wc, status)),
        ("offsetof(struct ibv_wc, opcode)", offset_of!(Wc, opcode)),
        ("offsetof(struct ibv_wc, byte_len)", offset_of!(Wc, byte_len)),
        ("offsetof(struct ibv_wc, wc_flags)", offset_of!(Wc, wc_flags)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read off the headers once, so that a change here is noticed on machines without them too.
    #[test]
    fn the_structures_have_the_sizes_and_places_of_the_headers() {
        let layout = layout();
        for (expression, expected) in [
            ("sizeof(struct ibv_context_ops)", 256),
            ("offsetof(struct ibv_context, ops.poll_cq)", 96),
            ("offsetof(struct ibv_context, ops.req_notify_cq)", 104),
            ("offsetof(struct ibv_context, ops.post_send)", 208),
            ("offsetof(struct ibv_context, ops.post_recv)", 216),
            ("offsetof(struct ibv_context, async_fd)", 268),
            ("offsetof(struct ibv_mr, lkey)", 36),
            ("offsetof(struct ibv_mr, rkey)", 40),
            ("offsetof(struct ibv_comp_channel, fd)", 8),
            ("offsetof(struct ibv_cq, cq_context)", 16),
            ("offsetof(struct ibv_qp, qp_context)", 8),
            ("offsetof(struct ibv_qp, qp_num)", 52),
            ("sizeof(struct ibv_async_event)", 16),
            ("offsetof(struct ibv_async_event, event_type)", 8),
            ("sizeof(struct ibv_device_attr)", 232),
            ("sizeof(struct ibv_port_attr)", 52),
            ("sizeof(struct ibv_qp_init_attr)", 64),
            ("sizeof(struct ibv_ah_attr)", 32),
            ("sizeof(struct ibv_qp_attr)", 144),
            ("sizeof(struct ibv_sge)", 16),
            ("sizeof(struct ibv_send_wr)", 128),
            ("sizeof(struct ibv_recv_wr)", 32),
            ("sizeof(struct ibv_wc)", 48),
        ] {
            let found = layout.iter().find(|(of, _)| *of == expression).map(|(_, found)| *found);
            assert_eq!(found, Some(expected), "{expression}");
        }
    }
}
