//! Claims: who is asked, who is waited for, and how a claim ends.

use super::*;

#[test]
fn a_claim_asks_the_owner_before_the_others() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let [(B, ticket)] = desk.claims[..] else { panic!("the owner alone is asked, not {:?}", desk.claims) };
    core.replied(B, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
    assert_eq!((&desk.claims[1..], &desk.claimed[..]), (&[(C, ticket)][..], &[][..]));
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Owner]);
    assert_eq!(tenure(&table), Some(Tenure::Owned));
}

#[test]
fn a_claimant_takes_what_the_owner_commits_before_it_hands_over() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let stamp = Stamp { epoch: Epoch::first(B), version: 2 };
    let running = Update::Delta(Delta { id: id(1), stamp, changes: Vec::new() });
    assert_eq!(table.with(id(1), |slot| replica::apply(slot, running, NOW)), replica::Applied::Applied);
    let ticket = desk.claims[0].1;
    core.replied(B, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
    assert_eq!(table.peek(id(1), |slot| Slot::live(slot).unwrap().stamp()), stamp);
}

#[test]
fn an_end_that_only_some_have_heard_of_is_told_to_all_under_the_claim_that_found_it() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let ticket = desk.claims[0].1;
    core.replied(B, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
    let ending = Ending { finality: Finality::Refutable, stamp: Stamp { epoch: Epoch::first(B), version: 2 } };
    core.replied(C, [Reply::Answer(ticket, Answer::Ended(ending, None))], NOW, &mut desk);
    assert_eq!((&desk.claimed[..], &desk.updates[..]), (&[ClaimEnded::Nothing][..], &[(B, id(1)), (C, id(1))][..]));
    let remembered = table.peek(id(1), |slot| match slot {
        Some(Slot::Ended(tombstone)) => tombstone.ending.stamp,
        other => panic!("{other:?} has not ended"),
    });
    assert_eq!(remembered, Stamp { epoch: Epoch::first(B).outranked_by(ME), version: 2 }, "B has promised no less");
}

#[test]
fn an_end_that_comes_while_it_is_asked_for_is_told_to_those_who_promised_the_claim() {
    let ending = Ending { finality: Finality::Refutable, stamp: Stamp { epoch: Epoch::first(B), version: 2 } };
    let mut both = Vec::new();
    for answer in [Answer::Ended(ending, None), Answer::Promised(Given::default())] {
        let (table, mut desk) = (Table::new(ME), Desk::default());
        create(&table, id(1), B);
        let mut core = core(&table, &mut desk);
        core.claim(wish(true), NOW, &mut desk);
        let ticket = desk.claims[0].1;
        core.replied(B, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
        table.with(id(1), |slot| replica::apply(slot, Update::End(End { id: id(1), ending }), NOW));
        core.replied(C, [Reply::Answer(ticket, answer)], NOW, &mut desk);
        both.push((desk.updates, desk.claimed));
    }
    let told = (vec![(B, id(1)), (C, id(1))], vec![ClaimEnded::Nothing]);
    assert_eq!(both, [told.clone(), told]);
}

#[test]
fn what_the_owner_handed_over_is_kept_while_the_others_are_asked() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    let mut newer = table.peek(id(1), |slot| Slot::live(slot).unwrap().whole(id(1), NOW));
    newer.stamp.version += 5;
    core.claim(wish(true), NOW, &mut desk);
    let ticket = desk.claims[0].1;
    core.replied(
        B,
        [Reply::Answer(ticket, Answer::Promised(Given { copy: Some(newer.clone()), ..Given::default() }))],
        NOW,
        &mut desk,
    );
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
    assert_eq!(table.peek(id(1), |slot| Slot::live(slot).unwrap().stamp()), newer.stamp);
}

#[test]
fn a_stopped_owner_holds_up_a_claim_no_longer_than_its_time() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    desk.stopped = vec![B];
    core.claim(wish(true), NOW, &mut desk);
    pass(&mut core, &mut desk, 20, 980);
    assert_eq!(desk.claims.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [B]);
    pass(&mut core, &mut desk, 1_000, 1_000);
    let [_, (B, _), (C, ticket)] = desk.claims[..] else { panic!("then all are, not {:?}", desk.claims) };
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(Given::default()))], after(1_000), &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Owner]);
}

#[test]
fn a_claim_that_rested_asks_the_owner_of_whom_this_node_has_heard_meanwhile() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let mut refused_by = Epoch::first(B);
    for _ in 0..2 {
        refused_by = refused_by.outranked_by(B);
        let (peer, ticket) = *desk.claims.last().unwrap();
        assert_eq!(peer, B, "it is taken for the owner");
        core.replied(B, [Reply::Answer(ticket, Answer::Refused(refused_by))], NOW, &mut desk);
    }
    desk.claims.clear();
    table.with(id(1), |slot| replica::yield_to(slot, refused_by.outranked_by(C)));
    pass(&mut core, &mut desk, 20, 200);
    assert!(
        matches!(desk.claims[..], [(C, _)]),
        "it would fence C's running request to ask others first: {:?}",
        desk.claims
    );
}

#[test]
fn a_claim_begins_anew_when_the_lease_has_run_out_meanwhile() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let first = desk.claims[0].1;
    pass(&mut core, &mut desk, 700, 700);
    core.replied(B, [Reply::Answer(first, Answer::Promised(Given::default()))], after(701), &mut desk);
    let (peer, second) = desk.claims[1];
    assert!(peer == B && second != first, "what was answered before the pause counts for nothing");
}

#[test]
fn an_owner_that_holds_a_lease_from_here_is_never_left_out() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    core.link_down(B, NOW, &mut desk);
    for ms in (20..=2_020).step_by(20) {
        table.lease().grant(B, after(ms));
        pass(&mut core, &mut desk, ms, ms);
        // A firewall refuses what this node sends there.
        core.absent(B);
    }
    assert_eq!(desk.claimed, [ClaimEnded::Contended]);
    assert_eq!(tenure(&table), Some(Tenure::Held));
}

#[test]
fn a_peer_that_was_never_there_is_left_out_as_soon_as_it_holds_no_lease() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    table.lease().grant(B, NOW);
    core.claim(wish(true), NOW, &mut desk);
    core.absent(B);
    let (lease, tick) = (LEASE.as_millis() as u64 * 13 / 12, 20);
    pass(&mut core, &mut desk, tick, lease);
    assert_eq!(desk.claims.len(), 1);
    pass(&mut core, &mut desk, lease + 1, lease + 2 * tick);
    assert_eq!(desk.claims.last().map(|(peer, _)| *peer), Some(C), "the others are asked");
}

#[test]
fn who_does_not_know_a_session_asks_for_it_without_a_rank_and_then_its_owner() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let [(B, of_b), (C, of_c)] = desk.claims[..] else { panic!("both are asked, not {:?}", desk.claims) };
    desk.claims.clear();
    // B holds it, and would have fenced a request that runs on C by promising it.
    core.replied(B, [Reply::Answer(of_b, Answer::Refused(Epoch::first(C)))], NOW, &mut desk);
    core.replied(C, [Reply::Answer(of_c, Answer::Refused(Epoch::first(C)))], NOW, &mut desk);
    assert!(matches!(desk.claims[..], [(C, _)]), "the owner alone: {:?}", desk.claims);
}

#[test]
fn an_owner_whose_process_has_ended_is_not_waited_for() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    table.lease().grant(B, NOW);
    core.claim(wish(true), NOW, &mut desk);
    core.link_down(B, NOW, &mut desk);
    core.gone(B, NOW, &mut desk);
    let &[_, (C, ticket)] = &desk.claims[..] else { panic!("the others are asked, not {:?}", desk.claims) };
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(Given::default()))], NOW, &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Owner]);
}

#[test]
fn one_that_was_taken_for_ended_and_is_back_ends_the_term_and_is_waited_for_again() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    let confirm = |core: &mut Core<Table>, desk: &mut Desk, ms| {
        core.replied(B, [Reply::Renewed { at: after(ms) }], after(ms), desk);
        core.replied(C, [Reply::Renewed { at: after(ms) }], after(ms), desk);
    };
    confirm(&mut core, &mut desk, 1);
    let term = table.lease().term(after(2)).unwrap();
    core.link_down(B, after(2), &mut desk);
    core.gone(B, after(2), &mut desk);
    core.link_up(B, after(3), &mut desk);
    confirm(&mut core, &mut desk, 4);
    assert_eq!(table.lease().term(after(5)), Some(Term(term.0 + 1)), "it may have taken over what is owned here");
    core.replied(C, [Reply::Renewed { at: after(200) }], after(200), &mut desk);
    assert_eq!(table.lease().term(after(4) + LEASE), None, "and it is asked for the lease again");
}

#[test]
fn an_owner_that_cannot_be_heard_is_told_by_all_that_it_was_replaced() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    desk.stopped = vec![B];
    pass(&mut core, &mut desk, 20, 1_200);
    let &(peer, ticket) = desk.claims.last().unwrap();
    assert_eq!((peer, &desk.replaced[..]), (C, &[][..]), "it is the owner until then");
    core.replied(C, [Reply::Answer(ticket, Answer::Promised(Given::default()))], after(1_200), &mut desk);
    assert_eq!((&desk.claimed[..], &desk.replaced[..]), (&[ClaimEnded::Owner][..], &[(B, B), (C, B)][..]));
}

#[test]
fn a_member_without_a_link_is_asked_when_it_has_one() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), B);
    let mut core = core(&table, &mut desk);
    core.link_down(B, NOW, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    pass(&mut core, &mut desk, 20, 100);
    assert_eq!((&desk.claims[..], &desk.claimed[..]), (&[][..], &[][..]), "who has no link is not passed over");
    core.link_up(B, after(100), &mut desk);
    assert_eq!(desk.claims.iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [B]);
}

#[test]
fn nobody_is_told_that_there_is_no_session_while_a_live_member_is_not_heard() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    core.link_down(B, NOW, &mut desk);
    desk.stopped = vec![B];
    let unknown = |core: &mut Core<Table>, desk: &mut Desk, ms| {
        core.claim(wish(false), after(ms), desk);
        for ms in (ms..ms + 1_040).step_by(20) {
            pass(core, desk, ms, ms);
            for (_, ticket) in std::mem::take(&mut desk.claims).iter().filter(|(peer, _)| *peer == C) {
                core.replied(C, [Reply::Answer(*ticket, Answer::Unknown)], after(ms), desk);
            }
        }
        desk.claimed.pop()
    };
    assert_eq!(unknown(&mut core, &mut desk, 20), Some(ClaimEnded::Contended), "its answer was waited for");
    pass(&mut core, &mut desk, 1_060, 2_000);
    assert!(table.lease().is_silent(B));
    assert_eq!(unknown(&mut core, &mut desk, 2_020), Some(ClaimEnded::Contended), "it may be back");
    pass(&mut core, &mut desk, 3_060, 10_000);
    assert_eq!(unknown(&mut core, &mut desk, 10_020), Some(ClaimEnded::Nothing), "but not for ever");
    core.link_up(B, after(12_000), &mut desk);
    desk.stopped.clear();
    pass(&mut core, &mut desk, 12_020, 12_500);
    core.gone(B, after(12_500), &mut desk);
    assert_eq!(unknown(&mut core, &mut desk, 12_520), Some(ClaimEnded::Nothing), "an ended process knows nothing");
}

#[test]
fn an_owner_that_others_name_is_asked_itself_and_believed_when_it_has_handed_over() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    core.claim(wish(false), NOW, &mut desk);
    let ticket = desk.claims[0].1;
    core.replied(B, [Reply::Answer(ticket, Answer::Owned(C))], NOW, &mut desk);
    let (peer, ticket) = desk.claims[2];
    assert_eq!((peer, desk.claims.len(), desk.insisted), (C, 3, 0));
    core.replied(C, [Reply::Answer(ticket, Answer::Unknown)], NOW, &mut desk);
    let everyone = vec![(B, ticket), (C, ticket)];
    assert_eq!((desk.claims[3..].to_vec(), desk.insisted), (everyone, 2), "who knows nothing has promised nothing");
}

#[test]
fn a_node_that_was_paused_asks_before_it_answers() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), ME);
    let mut core = core(&table, &mut desk);
    let root = ContextPath::root();
    let standing = |now| table.peek(id(1), |slot| replica::standing(slot, &root, table.lease().term(now)));
    assert_eq!(standing(NOW), replica::Standing::Owned);
    let woken = after(700);
    assert_eq!(standing(woken), replica::Standing::Held { owner: ME });
    core.claim(wish(false), woken, &mut desk);
    assert_eq!((desk.claims.len(), desk.claimed.len()), (0, 0), "it has no lease");
    pass(&mut core, &mut desk, 700, 740);
    let ticket = desk.claims[0].1;
    let above = Epoch::first(ME).outranked_by(C);
    core.replied(B, [Reply::Answer(ticket, Answer::Promised(Given::default()))], after(741), &mut desk);
    core.replied(C, [Reply::Answer(ticket, Answer::Owned(C))], after(741), &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Elsewhere(C)]);
    table.with(id(1), |slot| replica::yield_to(slot, above));
    assert_eq!(standing(after(741)), replica::Standing::Held { owner: C });
}

#[test]
fn a_node_for_which_all_others_lag_asks_them_before_it_takes_a_session() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    create(&table, id(1), C);
    let mut core = core(&table, &mut desk);
    let stamp = Stamp { epoch: Epoch::first(ME), version: 1 };
    core.announce(&Update::Delta(Delta { id: id(9), stamp, changes: Vec::new() }), NOW, &mut desk);
    pass(&mut core, &mut desk, 20, 1_000);
    let later = after(1_000);
    assert!(!core.peer(B, later).in_sync && !core.peer(C, later).in_sync);
    core.claim(wish(false), later, &mut desk);
    assert_eq!((tenure(&table), &desk.claimed[..]), (Some(Tenure::Held), &[][..]));
    let ticket = desk.claims[0].1;
    core.replied(C, [Reply::Answer(ticket, Answer::Owned(C))], later, &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Elsewhere(C)]);
}

#[test]
fn who_is_taken_for_the_owner_and_knows_nothing_is_asked_once_more_when_all_have_promised() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let [(_, ticket), _] = desk.claims[..] else { panic!("both are asked, not {:?}", desk.claims) };
    core.replied(B, [Reply::Answer(ticket, Answer::Unknown)], NOW, &mut desk);
    core.replied(C, [Reply::Answer(ticket, promised(Epoch::first(C).outranked_by(B)))], NOW, &mut desk);
    assert_eq!((&desk.claims[2..], desk.claimed.len()), (&[(B, ticket)][..], 0), "B's claim may have ended well");
    core.replied(B, [Reply::Answer(ticket, Answer::Unknown)], NOW, &mut desk);
    assert_eq!(desk.claimed, [ClaimEnded::Owner], "that was its last word");
}

#[test]
fn what_a_node_promises_while_it_seeks_the_session_outranks_its_own_claim() {
    let (table, mut desk) = (Table::new(ME), Desk::default());
    let mut core = core(&table, &mut desk);
    core.claim(wish(true), NOW, &mut desk);
    let [(_, ticket), _] = desk.claims[..] else { panic!("both are asked, not {:?}", desk.claims) };
    let asked = ClaimRequest {
        id: id(1),
        epoch: Epoch { counter: 9, node: B },
        context: ContextPath::root(),
        have: None,
        insist: true,
    };
    let answer = table.with(id(1), |slot| replica::promise(slot, &asked, (ME, None), |_| true, NOW));
    assert_eq!((answer, table.slots()), (Answer::Unknown, 0));
    core.replied(B, [Reply::Answer(ticket, Answer::Unknown)], NOW, &mut desk);
    core.replied(C, [Reply::Answer(ticket, promised(Epoch::first(C)))], NOW, &mut desk);
    assert_eq!((tenure(&table), &desk.claimed[..]), (None, &[][..]), "it does not own what it has promised to B");
    assert_eq!(desk.claims[2..], [(B, ticket + 1)], "it asks B");
}

#[test]
fn a_claim_that_comes_to_nothing_leaves_nothing_behind() {
    for answer in [Answer::Unknown, Answer::Owned(B), Answer::Refused(Epoch { counter: 9, node: B })] {
        let (table, mut desk) = (Table::new(ME), Desk::default());
        let mut core = core(&table, &mut desk);
        core.claim(wish(false), NOW, &mut desk);
        for ms in (0..5_000).step_by(20) {
            let asked = std::mem::take(&mut desk.claims);
            for (peer, ticket) in asked {
                core.replied(peer, [Reply::Answer(ticket, answer.clone())], after(ms), &mut desk);
            }
            pass(&mut core, &mut desk, ms, ms);
        }
        assert_eq!((desk.claimed.len(), table.ids(|_| true)), (1, vec![]), "{answer:?}");
    }
}

#[test]
fn of_two_nodes_that_outrank_each_other_again_and_again_one_waits() {
    for (other, waits) in [(B, true), (NodeId(0), false)] {
        let (table, mut desk) = (Table::new(ME), Desk::default());
        create(&table, id(1), C);
        let mut core = core(&table, &mut desk);
        core.claim(wish(true), NOW, &mut desk);
        for counter in [5, 6] {
            let tries: Vec<_> = std::mem::take(&mut desk.claims);
            for (peer, ticket) in tries {
                let refused = Answer::Refused(Epoch { counter, node: other });
                core.replied(peer, [Reply::Answer(ticket, refused.clone())], NOW, &mut desk);
                core.replied(C, [Reply::Answer(ticket, refused)], NOW, &mut desk);
            }
        }
        assert_eq!((desk.claims.is_empty(), desk.claimed.len()), (waits, 0), "{other:?}");
        pass(&mut core, &mut desk, 20, 80);
        assert!(!desk.claims.is_empty(), "it is tried again");
    }
}
