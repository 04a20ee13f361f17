//! Policy rules, of both families: which table a route is looked up in.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::{Netlink, accept};
use crate::error::{Error, Result};
use crate::failpoint;

/// Before the main table's, which has 32766.
const PRIORITY: u32 = 1000;

fn from(source: IpAddr, table: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    let (family, length) = if source.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    (rule.header.family, rule.header.src_len, rule.header.action) = (family, length, RuleAction::ToTable);
    rule.attributes =
        vec![RuleAttribute::Source(source), RuleAttribute::Table(table), RuleAttribute::Priority(PRIORITY)];
    rule
}

impl Netlink {
    /// Looks routes of what leaves with this address up in a table first.
    pub(crate) async fn add_rule(&self, source: IpAddr, table: u32) -> Result<()> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = from(source, table);
        failpoint::before("add a rule");
        accept(request.execute().await, &[libc::EEXIST])
            .map_err(|error| Error::Internal(format!("cannot set the rule for {source}: {error}")))
    }

    /// No longer does.
    pub(crate) async fn delete_rule(&self, source: IpAddr, table: u32) -> Result<()> {
        failpoint::before("delete a rule");
        let deleted = self.handle.rule().del(from(source, table)).execute().await;
        accept(deleted, &[libc::ENOENT])
            .map_err(|error| Error::Internal(format!("cannot take the rule for {source} away: {error}")))
    }
}
