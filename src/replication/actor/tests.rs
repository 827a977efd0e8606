use actix::Addr;

use super::*;
use crate::{
    membership::{Member, Role},
    settings::Ack,
};

const ME: NodeId = NodeId(1);
const PEER: NodeId = NodeId(2);

struct Ear;

impl Actor for Ear {
    type Context = Context<Self>;
}

impl Handler<LinkBroken> for Ear {
    type Result = ();

    fn handle(&mut self, _: LinkBroken, _: &mut Self::Context) {}
}

fn roster(members: &[NodeId]) -> RosterChanged {
    // Nobody answers at port 9 of loopback: the links only try.
    let address = "127.0.0.1:9".parse().unwrap();
    let role = || Role::Node { route: "r2".parse().unwrap(), http: address, duty: Duty::Serving };
    let members = members.iter().map(|id| Member { id: *id, address, role: role() }).collect();
    RosterChanged(Arc::new(Roster { members, discovered: true }))
}

fn replicator(table: Table) -> Addr<Replicator> {
    let timeout = Duration::from_secs(1);
    let replicator = Replicator::new(ReplicatorConfig {
        table,
        route: "r1".parse().unwrap(),
        cluster: "tasuki".into(),
        seal: LinkSeal::new("tasuki", None),
        rules: CoreConfig {
            ack: Ack::One,
            ack_timeout: timeout,
            claim_timeout: timeout,
            lease: limits::LEASE,
            repair_interval: timeout,
        },
        spread: Spread::Everywhere,
        min_copies: 1,
        queue_bytes: limits::FRAME_BYTES,
        exporter: None,
        gone: Ear.start().recipient(),
    });
    replicator.start()
}

#[actix_web::test]
async fn a_peer_whose_address_has_gone_to_another_life_has_ended_whatever_its_link_knows() {
    for (next, may_act) in [(&[][..], true), (&[NodeId(3)], false)] {
        let table = Table::new(ME);
        let replicator = replicator(table.clone());
        replicator.send(roster(&[PEER])).await.unwrap();
        table.lease().grant(PEER, Moment::now());
        replicator.send(roster(next)).await.unwrap();
        assert_eq!(table.lease().is_granted(PEER, Duration::from_secs(60), Moment::now()), may_act);
    }
}

#[actix_web::test]
async fn what_an_earlier_link_had_to_say_is_not_taken_for_the_new_ones() {
    let replicator = replicator(Table::new(ME));
    for members in [&[PEER][..], &[], &[PEER]] {
        replicator.send(roster(members)).await.unwrap();
    }
    let in_sync = async |link| {
        replicator.send(FromLink { peer: PEER, link, event: LinkEvent::Up }).await.unwrap();
        replicator.send(Observe).await.unwrap()[0].in_sync
    };
    assert!(!in_sync(1).await, "that link was closed when the peer left the roster");
    assert!(in_sync(2).await);
}
