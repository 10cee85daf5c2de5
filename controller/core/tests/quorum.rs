//! The quorum core, driven by hand: elections, durability before votes, group commit, snapshots, voter changes, and seeds.

use bytes::Bytes;
use odradek_common::time::Now;
use odradek_controller_core::quorum::{
    ProposeError, Quorum, QuorumConfig, QuorumInput, RestoredState, Role, VoterChange,
};
use world::{Disk, World};

#[path = "quorum/world.rs"]
mod world;

fn sole_voter() -> (Quorum, Disk) {
    let mut disk = Disk::default();
    disk.write(&Quorum::bootstrap(&[0]));
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let quorum = Quorum::new(QuorumConfig::new(0), &disk.restored(), &logger).expect("the disk is sound");
    (quorum, disk)
}

#[test]
fn a_sole_voter_leads_without_waiting_for_a_timeout() {
    let (mut quorum, _) = sole_voter();
    let now = Now::new(1, 1);
    let effects = quorum.handle(now, QuorumInput::Tick);
    assert_eq!(effects.role.expect("it changed").role, Role::Leader);
    let persist = effects.persist.expect("its first entry");
    assert!(persist.must_sync);
    assert!(
        !quorum.leads_with_all_applied(),
        "nothing is committed before it is durable"
    );
    let effects = quorum.handle(
        now,
        QuorumInput::Persisted {
            number: persist.number,
        },
    );
    assert_eq!(effects.committed.len(), 1);
    assert!(quorum.leads_with_all_applied());
}

#[test]
fn proposals_that_arrive_during_a_write_share_the_next() {
    let (mut quorum, _) = sole_voter();
    let now = Now::new(1, 1);
    let first = quorum
        .handle(now, QuorumInput::Tick)
        .persist
        .expect("its first entry");
    for token in 0..100 {
        let data = Bytes::from_static(b"x");
        let effects = quorum.handle(now, QuorumInput::Propose { data, token });
        assert!(effects.outcomes[0].result.is_ok());
        assert!(effects.persist.is_none(), "one write at a time");
    }
    let effects = quorum.handle(now, QuorumInput::Persisted { number: first.number });
    let second = effects.persist.expect("all that gathered");
    assert_eq!(second.entries.len(), 100);
    let effects = quorum.handle(
        now,
        QuorumInput::Persisted {
            number: second.number,
        },
    );
    assert_eq!(effects.committed.len(), 100);
}

#[test]
fn proposals_are_refused_by_followers_and_when_too_large() {
    let mut world = World::new(3, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    let follower = (leader + 1) % 3;
    let now = world.now;
    let quorum = world
        .nodes
        .get_mut(&follower)
        .and_then(|node| node.quorum.as_mut())
        .expect("it runs");
    assert_eq!(
        quorum.propose(Bytes::from_static(b"x")),
        Err(ProposeError::NotLeader)
    );
    let effects = quorum.handle(now, QuorumInput::TransferLeadership { to: None });
    assert!(effects.messages.is_empty(), "only a leader hands over");
    let quorum = world
        .nodes
        .get_mut(&leader)
        .and_then(|node| node.quorum.as_mut())
        .expect("it runs");
    let large = Bytes::from(vec![0; odradek_controller_core::quorum::PROPOSAL_BYTES_MAX + 1]);
    assert!(matches!(
        quorum.propose(large),
        Err(ProposeError::TooLarge { .. })
    ));
}

#[test]
fn a_vote_waits_for_the_disk() {
    let mut disk = Disk::default();
    disk.write(&Quorum::bootstrap(&[0, 1, 2]));
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut nodes: Vec<Quorum> = (0..3)
        .map(|id| Quorum::new(QuorumConfig::new(id), &disk.restored(), &logger).expect("sound"))
        .collect();
    // Node 0 asks for pre-votes, then votes; nobody's term changes before it is durable.
    let mut request = None;
    for tick in 0..100 {
        let effects = nodes[0].handle(Now::new(tick * 50, 0), QuorumInput::Tick);
        if !effects.messages.is_empty() {
            request = effects.messages.into_iter().find(|message| message.to == 1);
            break;
        }
    }
    let pre_vote = request.expect("it campaigns").bytes;
    let granted = nodes[1].handle(
        Now::new(0, 0),
        QuorumInput::Message {
            from: 0,
            bytes: pre_vote,
        },
    );
    assert!(granted.persist.is_none(), "a pre-vote changes nothing");
    let answer = granted
        .messages
        .into_iter()
        .find(|message| message.to == 0)
        .expect("an answer")
        .bytes;
    let campaign = nodes[0].handle(
        Now::new(5_000, 0),
        QuorumInput::Message {
            from: 1,
            bytes: answer,
        },
    );
    assert!(
        campaign.messages.is_empty(),
        "no vote request before the own vote is durable"
    );
    let persist = campaign.persist.expect("term and vote");
    assert!(persist.hard_state.is_some() && persist.must_sync);
    let vote = persist
        .messages
        .into_iter()
        .find(|message| message.to == 1)
        .expect("a request")
        .bytes;
    let voted = nodes[1].handle(Now::new(1, 0), QuorumInput::Message { from: 0, bytes: vote });
    assert!(voted.messages.is_empty(), "no vote before it is durable");
    assert_eq!(voted.persist.expect("the vote").messages.len(), 1);
}

#[test]
fn three_nodes_elect_commit_and_agree() {
    let mut world = World::new(7, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    assert!(world.propose(leader, "a"));
    world.run_until("all have it", 2_000, |world| (0..3).all(|id| world.has(id, "a")));
    world.run(200);
    let view = world.quorum(leader).view();
    assert_eq!(view.membership.voters, vec![0, 1, 2]);
    assert_eq!(view.peers.len(), 2);
    assert!(
        view.peers
            .iter()
            .all(|peer| peer.matched == view.last && peer.last_caught_up_ms.is_some())
    );
}

#[test]
fn a_leader_whose_port_refuses_is_replaced_within_half_a_second() {
    for seed in 0..20 {
        let mut world = World::new(seed * 77 + 1, &[0, 1, 2]);
        let leader = world.wait_for_leader();
        world.run(500);
        world.crash(leader);
        for id in (0..3).filter(|id| *id != leader) {
            world.input(id, QuorumInput::Down { peer: leader });
        }
        let ms = world.run_until("a new leader", 5_000, |world| world.leader().is_some());
        assert!(ms < 900, "seed {seed}: {ms} ms");
    }
}

#[test]
fn a_silent_leader_is_replaced_and_does_not_disturb_when_it_returns() {
    let mut world = World::new(11, &[0, 1, 2]);
    let old = world.wait_for_leader();
    for id in 0..3 {
        world.cut.insert((old, id));
        world.cut.insert((id, old));
    }
    let others: Vec<_> = (0..3).filter(|id| *id != old).collect();
    world.run_until("a new leader", 10_000, |world| {
        others.iter().any(|id| world.quorum(*id).leads_with_all_applied())
    });
    world.run(3_000);
    assert_ne!(
        world.quorum(old).view().role.role,
        Role::Leader,
        "check-quorum deposes it"
    );
    let term = world.leaders.keys().max().copied();
    world.cut.clear();
    world.run(5_000);
    assert_eq!(
        world.leaders.keys().max().copied(),
        term,
        "pre-vote keeps the term"
    );
}

#[test]
fn a_laggard_is_sent_a_snapshot() {
    let mut world = World::new(5, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    let laggard = (leader + 1) % 3;
    world.crash(laggard);
    for i in 0..200 {
        assert!(world.propose(leader, &format!("entry {i}")));
        world.run(3);
    }
    world.run_until("committed", 2_000, |world| world.has(leader, "entry 199"));
    assert!(world.quorum(leader).view().first > 100, "the log was truncated");
    world.start(laggard);
    world.run_until("caught up", 10_000, |world| world.has(laggard, "entry 199"));
    assert!(world.snapshots_sent > 0);
    // What it stored is enough to start again.
    world.run(200);
    world.crash(laggard);
    world.start(laggard);
    world.run_until("restarted", 10_000, |world| {
        world.nodes[&laggard].state.len() == 200
    });
}

#[test]
fn a_lost_snapshot_is_sent_again() {
    let mut world = World::new(6, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    let laggard = (leader + 1) % 3;
    world.crash(laggard);
    for i in 0..100 {
        world.propose(leader, &format!("entry {i}"));
        world.run(3);
    }
    world.start(laggard);
    // The snapshot leaves, and the peer dies before it has all of it.
    world.run_until("a snapshot leaves", 5_000, |world| world.snapshots_sent > 0);
    world.crash(laggard);
    world.run(1_000);
    world.start(laggard);
    world.run_until("caught up", 10_000, |world| world.has(laggard, "entry 99"));
}

#[test]
fn a_snapshot_of_unknown_fate_is_sent_again() {
    let mut world = World::new(6, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    let laggard = (leader + 1) % 3;
    world.crash(laggard);
    for i in 0..100 {
        world.propose(leader, &format!("entry {i}"));
        world.run(3);
    }
    world.start(laggard);
    world.run_until("a snapshot leaves", 5_000, |world| world.snapshots_sent > 0);
    world.restart_unnoticed(laggard);
    world.run_until("caught up", 60_000, |world| world.has(laggard, "entry 99"));
}

#[test]
fn leadership_is_handed_over_on_request() {
    let mut world = World::new(9, &[0, 1, 2]);
    let old = world.wait_for_leader();
    world.run(300);
    world.input(old, QuorumInput::TransferLeadership { to: None });
    let ms = world.run_until("another leader", 5_000, |world| {
        world.leader().is_some_and(|id| id != old)
    });
    assert!(ms < 300, "{ms} ms");
}

#[test]
fn a_node_joins_as_learner_and_is_promoted() {
    let mut world = World::new(13, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    for i in 0..60 {
        world.propose(leader, &format!("entry {i}"));
        world.run(3);
    }
    world.add_empty(3);
    world.change(leader, VoterChange::AddLearner(3));
    world.run_until("the learner has all", 10_000, |world| world.has(3, "entry 59"));
    world.change(leader, VoterChange::Promote(3));
    world.run_until("it votes", 5_000, |world| {
        world.quorum(3).view().membership.voters == vec![0, 1, 2, 3]
    });
    let quorum = world
        .nodes
        .get_mut(&leader)
        .and_then(|node| node.quorum.as_mut())
        .expect("it runs");
    assert_eq!(
        quorum.change_voters(VoterChange::Promote(3)),
        Err(ProposeError::InvalidChange)
    );
    // With one of the old voters gone and the new one in, three of four still are a majority.
    world.crash((leader + 1) % 3);
    assert!(world.propose(leader, "after"));
    world.run_until("committed on the joiner", 5_000, |world| world.has(3, "after"));
}

#[test]
fn a_leader_that_removes_itself_makes_way() {
    let mut world = World::new(17, &[0, 1, 2]);
    let old = world.wait_for_leader();
    world.run(300);
    world.change(old, VoterChange::Remove(old));
    world.run_until("another leader", 10_000, |world| {
        world.leader().is_some_and(|id| id != old)
    });
    let leader = world.leader().expect("just seen");
    assert!(world.propose(leader, "on"));
    world.run_until("it goes on", 5_000, |world| world.has(leader, "on"));
    assert!(!world.quorum(leader).view().membership.voters.contains(&old));
}

#[test]
fn a_second_change_of_voters_waits_for_the_first() {
    let mut world = World::new(19, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    world.change(leader, VoterChange::AddLearner(3));
    let quorum = world
        .nodes
        .get_mut(&leader)
        .and_then(|node| node.quorum.as_mut())
        .expect("it runs");
    assert_eq!(
        quorum.change_voters(VoterChange::AddLearner(4)),
        Err(ProposeError::ChangeInProgress)
    );
}

#[test]
fn messages_that_would_stop_raft_are_refused() {
    let mut world = World::new(23, &[0, 1, 2]);
    world.wait_for_leader();
    world.rejected.clear();
    // type 99; a proposal; a message to somebody else; noise.
    let hostile: [&[u8]; 4] = [
        &[8, 99, 16, 1, 24, 2, 32, 1],
        &[8, 2, 16, 1, 24, 2, 32, 1],
        &[8, 3, 16, 9, 24, 2, 32, 1],
        &[255, 255, 255],
    ];
    for bytes in hostile {
        world.input(
            0,
            QuorumInput::Message {
                from: 1,
                bytes: Bytes::copy_from_slice(bytes),
            },
        );
    }
    assert_eq!(
        world.rejected,
        [
            "unknown message type",
            "of a type that peers do not send",
            "meant for another node",
            "not a raft message"
        ]
    );
}

#[test]
fn a_term_that_is_no_leader_epoch_is_refused() {
    let mut world = World::new(31, &[0, 1, 2]);
    let term = {
        let leader = world.wait_for_leader();
        world.quorum(leader).view().role.term
    };
    world.run(500);
    world.rejected.clear();
    let varint = |mut value: u64| {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    };
    let (append, snapshot) = (3, 7);
    // A message of a kind from node 1 to node 0: kind, receiver, sender, term.
    let message = |kind: u8, term: u64| [vec![8, kind, 16, 1, 24, 2, 32], varint(term)].concat();
    // Its field 9, a snapshot, with metadata (2) of index 5 (2) and a term (3).
    let taken_in = |term: u64| {
        let metadata = [vec![16, 5, 24], varint(term)].concat();
        let length = metadata.len() as u8;
        [vec![74, length + 2, 18, length], metadata].concat()
    };
    let hostile = [
        message(append, 1 << 31),
        message(append, u64::MAX),
        [message(snapshot, term), taken_in(1 << 31)].concat(),
    ];
    for bytes in hostile {
        let bytes = Bytes::from(bytes);
        world.input(0, QuorumInput::Message { from: 1, bytes });
    }
    let no_term = "of a term that no leader can have";
    assert_eq!(world.rejected, [no_term, no_term, "a snapshot of a later term"]);
    assert_eq!(world.quorum(0).view().role.term, term);
}

#[test]
fn a_voter_that_was_away_follows_a_leader_it_has_never_heard_of() {
    let mut world = World::new(37, &[0, 1, 2]);
    let old = world.wait_for_leader();
    let away = (old + 1) % 3;
    world.crash(away);
    world.add_empty(3);
    world.change(old, VoterChange::AddLearner(3));
    world.run_until("the learner has all", 10_000, |world| {
        world.quorum(3).view().membership.learners == [3]
    });
    world.change(old, VoterChange::Promote(3));
    world.run_until("it votes", 5_000, |world| {
        world.quorum(3).view().membership.voters == [0, 1, 2, 3]
    });
    world.input(old, QuorumInput::TransferLeadership { to: Some(3) });
    world.run_until("it leads", 5_000, |world| world.leader() == Some(3));
    world.start(away);
    assert_eq!(world.quorum(away).view().membership.voters, [0, 1, 2]);
    assert!(world.propose(3, "after"));
    world.run_until("the one that was away has it", 10_000, |world| {
        world.has(away, "after")
    });
    assert_eq!(world.quorum(away).view().role.leader, Some(3));
}

#[test]
fn a_voter_that_lost_its_log_is_not_believed() {
    let mut world = World::new(29, &[0, 1, 2]);
    let leader = world.wait_for_leader();
    world.propose(leader, "a");
    world.run(500);
    let victim = (leader + 1) % 3;
    world.crash(victim);
    world.nodes.get_mut(&victim).expect("exists").disk = {
        let mut disk = Disk::default();
        disk.write(&Quorum::bootstrap(&[0, 1, 2]));
        disk
    };
    world.start(victim);
    world.run(2_000);
    assert!(
        world
            .rejected
            .iter()
            .any(|reason| reason.starts_with("this node lost entries"))
    );
}

#[test]
fn damaged_state_is_an_error() {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let mut disk = Disk::default();
    disk.write(&Quorum::bootstrap(&[0]));
    let mut restored: RestoredState = disk.restored();
    restored.entries = vec![Bytes::from_static(&[1, 2, 3])];
    assert!(Quorum::new(QuorumConfig::new(0), &restored, &logger).is_err());
}

/// Crashes, restarts, loss and proposals, all from one seed. What was acknowledged is there in the end.
fn chaos(seed: u64) -> Vec<String> {
    let mut world = World::new(seed, &[0, 1, 2]);
    world.loss_percent = world.random(15);
    let mut acknowledged: Vec<String> = Vec::new();
    let mut waiting: Vec<String> = Vec::new();
    for round in 0..400 {
        let action = world.random(40);
        let id = i32::try_from(world.random(3)).expect("small");
        let down = world.nodes.values().filter(|node| node.quorum.is_none()).count();
        match action {
            0 if down == 0 => world.crash(id),
            1..=5 if world.nodes[&id].quorum.is_none() => world.start(id),
            6 => world.input(id, QuorumInput::TransferLeadership { to: None }),
            _ => {
                if let Some(leader) = world.leader() {
                    let data = format!("{round}");
                    if world.propose(leader, &data) {
                        waiting.push(data);
                    }
                }
            }
        }
        let ms = 1 + world.random(30);
        world.run(ms);
        if let Some(leader) = world.leader() {
            let committed = |data: &String| world.has(leader, data);
            acknowledged.extend(waiting.iter().filter(|data| committed(data)).cloned());
            waiting.retain(|data| !committed(data));
        }
    }
    world.loss_percent = 0;
    for id in 0..3 {
        if world.nodes[&id].quorum.is_none() {
            world.start(id);
        }
    }
    let mut leader = world.wait_for_leader();
    // A proposal may be lost with its leader, or be refused while leadership is handed over.
    while !world.has(leader, "last") {
        world.propose(leader, "last");
        world.run(500);
        leader = world.wait_for_leader();
    }
    world.run_until("all agree", 20_000, |world| {
        (0..3).all(|id| world.has(id, "last"))
    });
    for data in &acknowledged {
        assert!((0..3).all(|id| world.has(id, data)), "seed {seed}: lost {data}");
    }
    assert!(!acknowledged.is_empty(), "seed {seed}: nothing happened");
    world.trace
}

#[test]
fn nothing_acknowledged_is_lost_under_crashes_and_loss() {
    for seed in 1..=60 {
        chaos(seed * 0x9e37_79b9);
    }
}

#[test]
fn one_seed_is_one_history() {
    for seed in [1, 42, 4_711] {
        assert_eq!(chaos(seed), chaos(seed));
    }
}

/// The log in memory is bounded by what a snapshot takes, long before the limits of the configuration.
#[test]
fn a_log_that_outweighs_its_snapshot_is_cut() {
    let (mut quorum, _) = sole_voter();
    let now = Now::new(1_000, 1);
    let mut most_bytes = 0;
    let mut cut_at = Vec::new();
    let mut state = Bytes::from(vec![0; 100]);
    for number in 0..12_000 {
        quorum.propose(Bytes::from(vec![7; 1_000])).expect("it leads");
        let mut effects = quorum.handle(now, QuorumInput::Tick);
        loop {
            if let Some(persist) = effects.persist.take() {
                let number = persist.number;
                effects = quorum.handle(now, QuorumInput::Persisted { number });
            } else if effects.snapshot_wanted {
                cut_at.push(number);
                let (index, data) = (quorum.view().applied, state.clone());
                effects = quorum.handle(now, QuorumInput::Snapshot { index, data });
                // From here on the state is as large as four thousand entries.
                state = Bytes::from(vec![0; 4 << 20]);
            } else {
                break;
            }
        }
        most_bytes = most_bytes.max(quorum.log_bytes());
    }
    assert!((900..1_100).contains(&cut_at[0]), "a small one soon: {cut_at:?}");
    assert!(
        cut_at[2] - cut_at[1] > 7_000,
        "a large one is worth as much: {cut_at:?}"
    );
    assert!(most_bytes < 10 << 20, "{most_bytes}");
}

#[test]
fn entries_get_into_a_snapshot_after_some_time_however_few_they_are() {
    let (mut quorum, _) = sole_voter();
    let tick_ms = 50;
    let persisted = |quorum: &mut Quorum, now_ms: u64| {
        let now = Now::new(now_ms, 1);
        let mut effects = quorum.handle(now, QuorumInput::Tick);
        while let Some(persist) = effects.persist.take() {
            let number = persist.number;
            effects = quorum.handle(now, QuorumInput::Persisted { number });
        }
        effects
    };
    let begun_ms = 1_000;
    let mut wanted_ms = Vec::new();
    let mut now_ms = begun_ms;
    while now_ms <= begun_ms + 3 * 3_600_000 {
        if persisted(&mut quorum, now_ms).snapshot_wanted {
            wanted_ms.push(now_ms - begun_ms);
            let index = quorum.view().applied;
            let data = Bytes::from_static(b"state");
            let effects = quorum.handle(Now::new(now_ms, 1), QuorumInput::Snapshot { index, data });
            let number = effects.persist.expect("the snapshot is written down").number;
            let _done = quorum.handle(Now::new(now_ms, 1), QuorumInput::Persisted { number });
        }
        now_ms += tick_ms;
    }
    assert_eq!(
        wanted_ms,
        [3_600_000],
        "once, because nothing was proposed after it"
    );
}
