//! The promises of this folder, each tried over many seeds.

use std::net::SocketAddr;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    super::{
        Duty, Member, MemberState, Roster, Way,
        datagram::{Envelope, Kind, Refused},
        identity::Identity,
        neighbours::{Input, Neighbours, News, Output, Why},
        strangers::Dropped,
    },
    DISCOVERY_TIMEOUT, Datagram, World, at, cluster, member, ms,
};
use crate::{
    limits,
    settings::{Cluster, Discovery, Secret},
    time::Moment,
};

const SEEDS: std::ops::Range<u64> = 0..25;

#[test]
fn nodes_that_start_together_find_each_other_in_milliseconds() {
    for seed in SEEDS {
        let mut world = World::of(seed, 2 + (seed % 4) as u16);
        world.until("discovered", ms(20), |w| w.processes.values().all(|p| p.core.roster().discovered));
        assert!(world.now.since(Moment(1_000_000)) < ms(20), "seed {seed}: {:?}", world.now);
    }
}

#[test]
fn a_node_alone_is_ready_at_once_when_its_peers_refuse() {
    let mut world = World::new(1);
    world.start(1, &cluster(Discovery::Static, &[1, 2, 3]));
    assert_eq!(world.process(1).published, [(world.now, Roster { members: vec![], discovered: true })]);
}

#[test]
fn a_peer_that_neither_answers_nor_refuses_is_waited_for_until_the_timeout() {
    let mut world = World::new(1);
    world.start(2, &cluster(Discovery::Static, &[]));
    world.process_mut(at(2)).paused = true;
    world.start(1, &cluster(Discovery::Static, &[2]));
    world.run(DISCOVERY_TIMEOUT - ms(1));
    assert!(!world.roster(1).discovered);
    world.run(ms(1));
    assert!(world.roster(1).discovered);
}

#[test]
fn a_complete_roster_holds_all_that_the_answering_peer_knew() {
    for seed in SEEDS {
        for discovery in [Discovery::Static, Discovery::Multicast] {
            let mut world = World::of(seed, 4);
            // Node 1 asks the newcomer, too, so that its question may overtake its answer.
            for port in 1..=4 {
                world.kill(port);
            }
            world.start(1, &cluster(discovery, &[5]));
            for port in 2..=4 {
                world.start(port, &cluster(discovery, &[1]));
            }
            world.until("four", ms(4_000), World::all_know_all);
            world.run(ms(world.seed * 17));
            world.start(5, &cluster(discovery, &[1]));
            world.until("discovered", ms(1_000), |world| world.roster(5).discovered);
            assert_eq!(world.roster(5).members.len(), 4, "seed {seed} {discovery:?}: {:?}", world.rosters());
        }
    }
}

#[test]
fn beacons_are_enough_to_find_each_other() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        for port in 1..=3 {
            world.start(port, &cluster(Discovery::Multicast, &[]));
        }
        world.until("all know all", ms(1_000), World::all_know_all);
        world.until("discovered", ms(1_000), |w| w.processes.values().all(|p| p.core.roster().discovered));
        let found = |news: &News| matches!(news, News::Found { way: Way::Multicast, .. });
        assert!(world.processes.values().any(|process| process.news.iter().any(found)), "seed {seed}");
    }
}

#[test]
fn a_lost_first_ask_is_repeated() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.loss = 1.0;
        world.start(1, &cluster(Discovery::Static, &[]));
        world.start(2, &cluster(Discovery::Static, &[1]));
        world.run(ms(100));
        world.loss = 0.0;
        world.until("all know all", ms(300), World::all_know_all);
    }
}

#[test]
fn a_silent_member_is_gone_within_three_seconds() {
    for seed in SEEDS {
        for count in 2..=5 {
            let mut world = World::of(seed, count);
            world.run(ms(seed * 37));
            let victim = world.id(1);
            world.kill(1);
            world.until("the silence is noticed", ms(3_000), |world| world.nobody_knows(victim));
            let first = world.processes.values().flat_map(|p| &p.news).find_map(|news| match news {
                News::Gone { why: Why::Silent, member } => Some(member.id),
                _ => None,
            });
            assert_eq!(first, Some(victim), "seed {seed}: somebody noticed by itself");
        }
    }
}

#[test]
fn whoever_leaves_is_gone_at_once_and_stays_away() {
    for seed in SEEDS {
        let mut world = World::of(seed, 5);
        let leaver = world.id(3);
        world.give(3, Input::Leave);
        let took = world.until("gone", ms(10), |world| (1..=5).all(|port| !world.knows(port, leaver)));
        assert!(took <= ms(2), "seed {seed}: {took:?}");
        world.run(ms(7_000));
        assert!(world.nobody_knows(leaver), "seed {seed}: it came back");
        for port in [1, 2, 4, 5] {
            assert_eq!(world.whys(port), [Why::Left], "seed {seed}");
        }
    }
}

#[test]
fn a_restarted_process_replaces_the_old_one_in_one_step() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        world.run(ms(seed * 11 + 1));
        let old = world.id(2);
        world.kill(2);
        world.run(ms(50));
        world.start(2, &cluster(Discovery::Static, &[1, 3]));
        let new = world.id(2);
        let took = world.until("replaced", ms(100), |world| world.all_know_all());
        assert!(took < ms(20), "seed {seed}: {took:?}");
        for port in [1, 3] {
            let mut steps = world.process(port).published.iter().map(|(_, roster)| roster);
            let has = |roster: &Roster, id| roster.members.iter().any(|member| member.id == id);
            assert!(steps.all(|roster| !(has(roster, old) && has(roster, new))), "seed {seed}: both at once");
            assert_eq!(world.whys(port), [Why::Replaced], "seed {seed}");
            let last_two: Vec<_> = world.process(port).published.iter().rev().take(2).map(|(_, r)| r).collect();
            assert!(has(last_two[0], new) && has(last_two[1], old), "seed {seed}: not in one step");
        }
    }
}

#[test]
fn a_clock_that_was_set_back_before_a_restart_keeps_nobody_out() {
    const FORTNIGHT_MS: u64 = 14 * 24 * 3_600 * 1_000;
    for (seed, delay) in SEEDS.flat_map(|seed| [(seed, ms(0)), (seed, ms(50))]) {
        let mut world = World::of(seed, 3);
        world.kill(2);
        // Until now its clock was ahead by two weeks.
        let (settings, clock) = (cluster(Discovery::Static, &[1, 3]), world.now.0);
        world.start_at_clock(2, &settings, clock + FORTNIGHT_MS);
        world.until("all know all", ms(1_000), World::all_know_all);
        world.run(ms(5_000));
        world.kill(2);
        let sent = world.sent;
        world.delay = delay;
        world.start_at_clock(2, &settings, clock);
        world.until("all know all", ms(10_000), World::all_know_all);
        assert!(world.sent - sent < 2_000, "seed {seed} {delay:?}: {} datagrams", world.sent - sent);
        world.run(ms(5_000));
        assert!(world.all_know_all(), "seed {seed} {delay:?}: {:?}", world.rosters());
    }
}

#[test]
fn a_broken_link_is_known_everywhere_at_once() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        let victim = world.id(1);
        world.kill(1);
        world.give(2, Input::LinkBroken(victim));
        assert!(!world.knows(2, victim));
        assert_eq!(world.whys(2), [Why::LinkBroken]);
        world.until("passed on", ms(200), |world| world.nobody_knows(victim));
    }
}

#[test]
fn a_member_declared_down_by_mistake_returns_with_the_same_life() {
    for seed in SEEDS {
        for count in 2..=4 {
            let mut world = World::of(seed, count);
            world.run(ms(seed * 13));
            let victim = world.id(1);
            world.give(2, Input::LinkBroken(victim));
            assert!(!world.knows(2, victim));
            world.until("it returned", ms(1_000), World::all_know_all);
            assert_eq!(world.id(1), victim);
            world.run(ms(3_000));
            assert!(world.all_know_all(), "seed {seed}: {:?}", world.rosters());
        }
    }
}

#[test]
fn a_paused_process_is_dropped_and_returns() {
    for seed in SEEDS {
        for count in 2..=4 {
            let mut world = World::of(seed, count);
            let paused = world.id(1);
            world.process_mut(at(1)).paused = true;
            world.until("dropped", ms(3_000), |w| (2..=count).all(|port| !w.knows(port, paused)));
            world.run(ms(seed * 500));
            let before = world.process(1).published.len();
            world.resume(1);
            world.until("returned", ms(1_500), World::all_know_all);
            let mut since = world.process(1).published[before..].iter();
            let complete = since.all(|(_, roster)| roster.members.len() == usize::from(count) - 1);
            assert!(complete, "seed {seed}: it blamed the others for its own pause");
        }
    }
}

#[test]
fn a_suspicion_from_before_a_pause_is_not_held_against_a_live_member() {
    for seed in SEEDS {
        let mut world = World::of(seed, 2);
        world.run(ms(seed * 7));
        world.other_side = vec![at(2)];
        let suspects = |world: &World| {
            let report = world.process(1).core.report();
            report.members.iter().any(|member| member.state == MemberState::Suspect)
        };
        world.until("suspected", ms(1_000), suspects);
        world.other_side.clear();
        world.process_mut(at(1)).paused = true;
        world.run(ms(5_000));
        world.resume(1);
        world.until("returned", ms(1_500), World::all_know_all);
        assert_eq!(world.whys(1), [], "seed {seed}: it blamed the other for its own pause");
    }
}

#[test]
fn a_changed_duty_is_seen_by_everybody_within_200_ms() {
    for seed in SEEDS {
        let mut world = World::of(seed, 2 + (seed % 4) as u16);
        let settled: Vec<_> = world.processes.values().map(|p| p.news.len()).collect();
        for duty in [Duty::Serving, Duty::Draining, Duty::Serving] {
            world.give(1, Input::SetDuty(duty));
            world.until("seen", ms(200), |world| world.everybody_sees(1, duty));
            world.run(ms(seed * 7));
        }
        world.run(ms(5_000));
        let news: Vec<_> = world.processes.values().map(|p| p.news.len()).collect();
        assert_eq!(news, settled, "seed {seed}: a new duty is the same life, nobody comes or goes");
    }
}

#[test]
fn a_peer_that_dies_while_a_duty_changes_is_noticed() {
    for seed in SEEDS {
        let mut world = World::of(seed, 2);
        world.run(ms(1_000));
        let victim = world.id(2);
        world.kill(2);
        world.give(1, Input::SetDuty(Duty::Draining));
        world.until("noticed", ms(3_000), |world| world.nobody_knows(victim));
    }
}

#[test]
fn a_lossy_network_loses_nobody_for_long() {
    for seed in SEEDS {
        let mut world = World::of(seed, 4);
        world.loss = 0.05;
        world.give(2, Input::SetDuty(Duty::Serving));
        world.until("the duty is seen", ms(600), |world| world.everybody_sees(2, Duty::Serving));
        for _ in 0..10 {
            world.run(ms(3_000));
            world.until("all know all", ms(1_500), World::all_know_all);
        }
        let victim = world.id(4);
        world.kill(4);
        world.until("the silence is noticed", ms(3_000), |world| world.nobody_knows(victim));
    }
}

#[test]
fn a_split_cluster_heals() {
    for seed in SEEDS {
        for discovery in [Discovery::Static, Discovery::Multicast] {
            let mut world = World::new(seed);
            (1..=4).for_each(|port| world.start(port, &cluster(discovery, &[1])));
            world.until("all know all", ms(2_000), World::all_know_all);
            world.other_side = vec![at(3), at(4)];
            world.until("split", ms(6_000), |w| (1..=4).all(|port| w.roster(port).members.len() == 1));
            world.run(ms(20_000));
            world.other_side.clear();
            world.until("healed", ms(7_000), World::all_know_all);
        }
    }
}

#[test]
fn who_comes_back_from_a_split_does_not_make_the_others_lose_each_other() {
    for (seed, is_mute) in SEEDS.flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut world = World::of(seed, 4);
        match is_mute {
            true => world.one_way = (2..=4).map(|other| (at(1), at(other))).collect(),
            false => world.other_side = vec![at(1)],
        }
        let is_split = |w: &World| (1..=4).all(|port| w.roster(port).members.len() == if port == 1 { 0 } else { 2 });
        world.until("split", ms(6_000), is_split);
        let healed = world.now;
        world.other_side.clear();
        world.one_way.clear();
        world.until("healed", ms(7_000), World::all_know_all);
        for port in 2..=4 {
            for (when, roster) in world.process(port).published.iter().filter(|(when, _)| *when >= healed) {
                let is_there = |other: u16| roster.members.iter().any(|member| member.address == at(other));
                let after = when.since(healed);
                assert!(
                    (2..=4).all(|other| other == port || is_there(other)),
                    "seed {seed}, {port}, {after:?}: {roster:?}"
                );
            }
        }
    }
}

#[test]
fn members_of_another_cluster_are_ignored_and_logged_once() {
    let mut world = World::new(3);
    world.start(1, &cluster(Discovery::Static, &[]));
    world.start(2, &Cluster { name: "other".into(), ..cluster(Discovery::Static, &[1]) });
    world.run(ms(20_000));
    assert_eq!(world.rosters(), [(1, true, vec![]), (2, true, vec![])]);
    let told = Dropped { why: Refused::OtherCluster, count: 1, address: at(2) };
    assert_eq!(world.process(1).news, [News::Dropped(told)]);
    let datagrams = world.process(1).core.report().datagrams;
    assert!(datagrams.other_cluster > 5 && datagrams.refused == datagrams.other_cluster, "{datagrams:?}");
}

#[test]
fn without_a_secret_nothing_from_the_network_is_heard() {
    let from: SocketAddr = ([192, 0, 2, 1], 4000).into();
    let settings =
        Cluster { discovery: vec![Discovery::Static, Discovery::Multicast], ..cluster(Discovery::Static, &[1]) };
    let me = Identity::new(Member { address: from, ..member(9, 9) }, 1);
    let mut stranger = Neighbours::new(&settings, None, true, me, StdRng::seed_from_u64(9), Moment(0));
    let mut said = Vec::new();
    for output in stranger.handle(Input::Tick, Moment(0)) {
        if let Output::Send { bytes, .. } | Output::Beacon { bytes } = output {
            said.push(bytes);
        }
    }
    assert_eq!(said.len(), 2, "it asks to be let in, and says to everybody that it is there");

    let mut world = World::new(5);
    world.start(1, &cluster(Discovery::Multicast, &[]));
    said.iter().for_each(|bytes| world.give(1, Input::Datagram { from, bytes }));
    world.run(ms(5_000));
    let report = world.process(1).core.report();
    assert_eq!((report.members, report.datagrams.refused), (vec![], 2));
    assert!(world.roster(1).members.is_empty());
    let why = Refused::FromNetwork;
    assert_eq!(world.process(1).news, [News::Dropped(Dropped { why, count: 1, address: from })], "the next is not due");
}

#[test]
fn random_and_damaged_datagrams_change_nothing_that_lasts() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        let mut noise = StdRng::seed_from_u64(seed + 1_000);
        let mut seen = Vec::new();
        for _ in 0..400 {
            world.run(ms(5));
            seen.extend(world.wire.values().take(2).cloned());
            let mut bytes = match seen.get(noise.random_range(0..400)) {
                Some(datagram) => datagram.bytes.clone(),
                None => (0..noise.random_range(0..1_500)).map(|_| noise.random()).collect(),
            };
            for _ in 0..noise.random_range(1..4) {
                let place = noise.random_range(0..=bytes.len());
                match bytes.get_mut(place) {
                    Some(byte) => *byte = noise.random(),
                    None => bytes.truncate(noise.random_range(0..=bytes.len())),
                }
            }
            let from = at(noise.random_range(1..6));
            world.give(noise.random_range(1..=3), Input::Datagram { from, bytes: &bytes });
        }
        world.until("all know all", ms(5_000), |world| {
            (1..=3).all(|port| (1..=3).all(|other| port == other || world.knows(port, world.id(other))))
        });
    }
}

#[test]
fn invented_members_do_not_grow_the_memory() {
    let mut world = World::of(1, 2);
    for port in 10..2_000 {
        let mut forger = World::new(u64::from(port));
        forger.start(port, &cluster(Discovery::Static, &[1]));
        let (_, ask) = forger.wire.pop_first().expect("it asks");
        world.give(1, Input::Datagram { from: at(port), bytes: &ask.bytes });
    }
    let report = world.process(1).core.report();
    assert!(report.members.len() <= limits::MEMBERS, "{} members", report.members.len());
    assert!(report.members.iter().any(|m| m.member.address == at(2) && m.state == MemberState::Alive));
    world.until("the invented ones are gone, the real one is not", ms(180_000), World::all_know_all);
}

#[test]
fn the_checker_of_silence_can_fail() {
    let outcome = std::panic::catch_unwind(|| {
        let mut world = World::of(7, 2);
        let victim = world.id(1);
        world.kill(1);
        world.until("noticed too soon", ms(500), |world| world.nobody_knows(victim));
    });
    let text = outcome.unwrap_err().downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains("seed 7") && text.contains("noticed too soon"), "{text}");
}

fn secret(digit: char) -> Option<Secret> {
    Some(Secret::parse(&digit.to_string().repeat(64)).unwrap())
}

/// Nodes on ports 1, 2, .. that name each other, each with the secret of this digit, or none.
fn with_secrets(seed: u64, digits: &[Option<char>]) -> World {
    let mut world = World::new(seed);
    let ports: Vec<u16> = (1..).take(digits.len()).collect();
    for (port, digit) in ports.iter().zip(digits) {
        world.secret = digit.and_then(secret);
        world.start(*port, &cluster(Discovery::Static, &ports));
    }
    world
}

#[test]
fn sealed_members_find_each_other_and_lose_nothing_to_the_memory_of_replays() {
    for seed in SEEDS {
        let mut world = with_secrets(seed, &[Some('1'); 4]);
        world.until("all know all", ms(1_000), World::all_know_all);
        world.run(ms(20_000));
        for process in world.processes.values() {
            assert_eq!(process.core.report().datagrams.refused, 0, "seed {seed}");
        }
    }
}

#[test]
fn a_wrong_or_missing_secret_joins_nobody_and_is_told_at_a_bounded_rate() {
    for stranger in [Some('2'), None] {
        let mut world = with_secrets(1, &[Some('1'), Some('1'), stranger]);
        world.run(ms(60_000));
        let rosters = world.rosters().into_iter().map(|(_, _, members)| members).collect::<Vec<_>>();
        assert_eq!(rosters, [vec![2], vec![1], vec![]]);
        let report = world.process(1).core.report().datagrams;
        assert!(report.unsealed > 10 && report.unsealed == report.refused, "{report:?}");
        let lines = |port, why| world.dropped(port).into_iter().filter(move |line| line.why == why);
        let told = lines(1, Refused::Unsealed).count();
        assert!((2..=7).contains(&told), "{told} lines in a minute");
        let sum: u64 = lines(1, Refused::Unsealed).map(|line| line.count).sum();
        assert!(sum + 20 >= report.unsealed, "{sum} of {} were told of", report.unsealed);
        if stranger.is_none() {
            assert!((1..=2).contains(&lines(3, Refused::Sealed).count()), "{:?}", world.process(3).news);
        }
    }
}

#[test]
fn a_secret_is_replaced_without_a_gap() {
    let mut world = with_secrets(2, &[Some('1'); 3]);
    world.until("all know all", ms(1_000), World::all_know_all);
    let both = |first: char, second: char| {
        let line = |digit: char| digit.to_string().repeat(64) + "\n";
        Some(Secret::parse(&(line(first) + &line(second))).unwrap())
    };
    for step in [both('1', '2'), both('2', '1'), secret('2')] {
        for port in 1..=3 {
            world.kill(port);
            world.secret = step.clone();
            world.start(port, &cluster(Discovery::Static, &[1, 2, 3]));
            world.until("all know all", ms(5_000), World::all_know_all);
        }
    }
}

#[test]
fn what_is_sent_again_by_a_stranger_changes_nothing() {
    for seed in SEEDS {
        let mut world = with_secrets(seed, &[Some('1'); 3]);
        world.until("all know all", ms(1_000), World::all_know_all);
        world.recorded = Some(Vec::new());
        world.run(ms(4_000));
        // The farewell of a member is the worst of them: it goes, and comes back.
        world.give(3, Input::Leave);
        world.run(ms(100));
        let recorded = world.recorded.take().unwrap();
        world.kill(3);
        world.start(3, &cluster(Discovery::Static, &[1, 2, 3]));
        world.until("all know all", ms(5_000), World::all_know_all);
        world.run(ms(1_000));
        let (before, news) = (world.rosters(), world.process(1).news.len());
        let replayed: Vec<_> = recorded.iter().filter(|datagram| datagram.to == at(1)).cloned().collect();
        assert!(replayed.len() > 20);
        for Datagram { from, bytes, .. } in &replayed {
            world.give(1, Input::Datagram { from: *from, bytes });
        }
        assert_eq!(world.process(1).core.report().datagrams.replayed, replayed.len() as u64, "seed {seed}");
        assert_eq!((world.rosters(), world.process(1).news.len()), (before, news), "seed {seed}");
    }
}

#[test]
fn a_member_of_another_version_is_named_and_never_misread() {
    for (magic, own) in [(*b"tsk", None), (*b"TSK", secret('1'))] {
        for version in [0, 2, 99] {
            let mut world = World::new(4);
            world.secret = own.clone();
            world.start(1, &cluster(Discovery::Static, &[]));
            let other = [&magic[..], &[version], b"whatever this version may mean by its bytes"].concat();
            for _ in 0..3 {
                world.give(1, Input::Datagram { from: at(2), bytes: &other });
            }
            let told = Dropped { why: Refused::Version(version), count: 1, address: at(2) };
            assert_eq!(world.process(1).news, [News::Dropped(told)]);
            assert!(world.roster(1).members.is_empty());
            assert_eq!(world.process(1).core.report().datagrams.refused, 3);
        }
    }
}

#[test]
fn however_many_belong_to_another_cluster_one_of_another_version_is_told_of() {
    let mut world = World::new(8);
    world.start(1, &cluster(Discovery::Static, &[]));
    let mut other = Envelope::new("other", None).wrap(Kind::Probe, &[]);
    for port in 2..=66 {
        world.give(1, Input::Datagram { from: at(port), bytes: &other });
    }
    other[3] = 9;
    world.give(1, Input::Datagram { from: at(67), bytes: &other });
    let told = [(Refused::OtherCluster, 2), (Refused::Version(9), 67)];
    let told = told.map(|(why, port)| Dropped { why, count: 1, address: at(port) });
    assert_eq!(world.dropped(1), told);
    world.run(limits::OTHER_CLUSTER_LINE + ms(1_000));
    assert_eq!(world.dropped(1)[2..], [Dropped { why: Refused::OtherCluster, count: 64, address: at(66) }]);
}

#[test]
fn a_member_whose_address_is_changed_on_the_way_is_told_of_with_both() {
    let mut world = World::new(9);
    world.secret = secret('1');
    world.start(1, &cluster(Discovery::Static, &[]));
    world.start(2, &cluster(Discovery::Static, &[1]));
    let (_, ask) = world.wire.pop_first().expect("it asks");
    world.give(1, Input::Datagram { from: at(9), bytes: &ask.bytes });
    let told = Dropped { why: Refused::Forged { claimed: at(2) }, count: 1, address: at(9) };
    assert_eq!(world.dropped(1), [told]);
}

#[test]
fn a_direction_that_is_lost_is_made_up_for_by_the_others() {
    for seed in SEEDS {
        let mut world = World::of(seed, 3);
        world.one_way = vec![(at(1), at(2))];
        world.run(ms(20_000));
        let gone = |port| world.whys(port).len();
        assert_eq!((gone(1), gone(2), gone(3)), (0, 0, 0), "seed {seed}: somebody was taken for dead");
        assert!(world.all_know_all(), "seed {seed}");
        let mut alone = World::of(seed, 2);
        alone.one_way = vec![(at(1), at(2))];
        alone.until("without a third the loss is noticed", ms(5_000), |world| !world.whys(2).is_empty());
    }
}

#[test]
fn a_name_finds_everybody_behind_it_also_who_comes_later() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        let settings = Cluster { dns: vec!["nodes:1".into()], ..cluster(Discovery::Dns, &[]) };
        world.names.insert("nodes:1".into(), vec![at(1), at(2)]);
        (1..=2).for_each(|port| world.start(port, &settings));
        world.until("both know each other", ms(1_000), World::all_know_all);
        world.until("discovered", ms(1_000), |w| w.processes.values().all(|p| p.core.roster().discovered));
        let found = |news: &News| matches!(news, News::Found { way: Way::Dns, .. });
        assert!(world.processes.values().any(|process| process.news.iter().any(found)), "seed {seed}");
        // It cannot look the name up itself, and is found by those who do.
        world.run(ms(30_000));
        world.start(3, &cluster(Discovery::Static, &[]));
        world.names.insert("nodes:1".into(), vec![at(1), at(2), at(3)]);
        world.until("the third is found", ms(6_000), World::all_know_all);
    }
}

#[test]
fn one_name_in_the_list_of_peers_may_stand_for_all_nodes() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        let settings = Cluster { peers: vec!["nodes:1".into()], ..cluster(Discovery::Static, &[]) };
        world.names.insert("nodes:1".into(), vec![at(1), at(2), at(3)]);
        (1..=3).for_each(|port| world.start(port, &settings));
        world.until("all know all", ms(1_000), World::all_know_all);
        world.until("discovered", ms(1_000), |w| w.processes.values().all(|p| p.core.roster().discovered));
    }
}

#[test]
fn a_peer_name_that_was_this_process_once_is_found_where_it_points_to_later() {
    for seed in SEEDS {
        let mut world = World::new(seed);
        let settings = Cluster { peers: vec!["other:1".into()], ..cluster(Discovery::Static, &[]) };
        world.names.insert("other:1".into(), vec![at(1)]);
        world.start(1, &settings);
        world.run(ms(20_000));
        assert!(world.roster(1).discovered, "nobody else is named");
        world.start(2, &cluster(Discovery::Static, &[]));
        world.names.insert("other:1".into(), vec![at(2)]);
        world.until("found", ms(6_000), World::all_know_all);
        // And on to a third one, while the second stays.
        world.start(3, &cluster(Discovery::Static, &[]));
        world.names.insert("other:1".into(), vec![at(3)]);
        world.until("the third is found", ms(6_000), World::all_know_all);
    }
}

#[test]
fn a_name_without_an_address_is_a_line_a_minute_and_no_error() {
    let (none, nowhere) = (cluster(Discovery::Static, &[]), vec!["nowhere:1".to_owned()]);
    let listed = Cluster { peers: nowhere.clone(), ..none.clone() };
    let zone = Cluster { discovery: vec![Discovery::Dns], dns: nowhere, ..none };
    for (key, settings) in [("cluster.peers", listed), ("cluster.dns", zone)] {
        let mut world = World::new(5);
        world.start(1, &settings);
        world.run(DISCOVERY_TIMEOUT);
        assert!(world.roster(1).discovered, "it goes on alone");
        world.run(ms(600_000) - DISCOVERY_TIMEOUT);
        assert!(world.looked_up.len() > 100 && world.looked_up.len() < 140, "{} look-ups", world.looked_up.len());
        let told = News::Unresolved { key, name: "nowhere:1".into() };
        assert!(told.to_string().contains(key));
        assert!((9..=11).contains(&world.process(1).news.iter().filter(|news| **news == told).count()));
    }
}
