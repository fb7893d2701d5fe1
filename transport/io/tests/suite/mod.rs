// What every backend passes; included by each backend's own test with its `suite!` macro.

suite! {
    delivery::bytes_of_all_sizes_arrive;
    delivery::odd_ranges_arrive_where_they_belong;
    delivery::many_transfers_at_once_arrive;
    delivery::a_step_overtakes_a_rescue;
    delivery::what_is_posted_is_bounded;
    delivery::the_egress_limit_holds;
    delivery::a_limit_is_shared_in_the_order_of_the_requests;
    delivery::a_lane_limit_holds_its_lane_only;
    delivery::what_can_not_be_in_time_is_known_when_it_is_asked_for;
    fence::a_cancel_is_a_fence(trials(500));
    fence::a_cancel_may_come_at_any_time;
    fence::a_deadline_is_a_fence(trials(100));
    fence::a_revoke_is_a_fence(trials(100));
    fence::only_live_grants_are_written;
    failure::a_lost_link_loses_nothing;
    failure::a_dead_peer_fails_only_its_own_transfers;
    failure::a_silent_peer_is_found_dead;
    failure::a_cancel_without_an_answer_is_quarantine;
    failure::a_source_that_changes_is_noticed;
    failure::a_shutdown_is_bounded;
    messages::messages_keep_their_order;
    messages::messages_survive_lost_links;
    messages::unread_messages_hold_up_only_their_channel;
    messages::a_slow_subscriber_loses_nothing;
    messages::messages_are_bounded;
    identity::connecting_twice_is_connecting_once;
    identity::connecting_crosswise_is_connecting_once;
    identity::a_claimed_identity_is_refused;
    identity::a_later_life_replaces_the_earlier;
    identity::strangers_are_refused;
    identity::bad_tickets_are_errors;
}
