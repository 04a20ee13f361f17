//! The kernel's announcements of changed devices, addresses and routes, and of lost filters.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt as _, StreamExt as _};
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket as _;

use super::device::Device;
use super::route::device;
use crate::error::{Context as _, Result};

/// Announcements that may pile up while we are busy: a bulk change of thousands of routes fits.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What has changed since the last look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// Devices that appeared, changed or went away, as they are or were, by number.
    pub(crate) devices: BTreeMap<u32, Device>,
    /// Devices whose addresses changed.
    pub(crate) addresses: BTreeSet<u32>,
    /// Routes changed.
    pub(crate) routes: bool,
    /// Devices that have lost an address or a route.
    pub(crate) losers: BTreeSet<u32>,
    /// Devices that have lost a filter, or what filters hang on.
    pub(crate) filters: BTreeSet<u32>,
    /// Announcements were lost: anything may have changed.
    pub(crate) lost: bool,
}

/// A socket that hears what changes in its network namespace.
pub(crate) struct Watch {
    socket: tokio::task::AbortHandle,
    messages: futures_util::stream::BoxStream<'static, NetlinkPayload<RouteNetlinkMessage>>,
}

impl Watch {
    /// Listens in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Tc,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Rule,
        ];
        let what = || "listen to changes of the network".into();
        let (mut connection, _, messages) = rtnetlink::new_multicast_connection(&groups).context(what)?;
        connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER).context(what)?;
        let socket = tokio::spawn(connection).abort_handle();
        Ok(Self { socket, messages: messages.map(|(message, _)| message.payload).boxed() })
    }

    /// Waits for a change, and takes all that have been announced by then. `None` when the socket is gone.
    pub(crate) async fn next(&mut self) -> Option<Changes> {
        let mut changes = Changes::default();
        changes.add(&self.messages.next().await?);
        while let Some(Some(message)) = self.messages.next().now_or_never() {
            changes.add(&message);
        }
        Some(changes)
    }
}

impl Drop for Watch {
    /// Otherwise the socket would be read on, for nobody.
    fn drop(&mut self) {
        self.socket.abort();
    }
}

impl Changes {
    fn add(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) {
        use RouteNetlinkMessage::{
            DelAddress, DelLink, DelQueueDiscipline, DelRoute, DelRule, DelTrafficFilter, NewAddress, NewLink,
            NewRoute, NewRule,
        };
        match payload {
            NetlinkPayload::InnerMessage(DelAddress(address)) => {
                self.losers.insert(address.header.index);
            }
            NetlinkPayload::InnerMessage(DelRoute(route)) => self.losers.extend(device(route)),
            NetlinkPayload::InnerMessage(DelTrafficFilter(tc) | DelQueueDiscipline(tc)) => {
                self.filters.extend(u32::try_from(tc.header.index));
            }
            _ => {}
        }
        match payload {
            NetlinkPayload::InnerMessage(NewLink(link) | DelLink(link)) => {
                self.devices.insert(link.header.index, link.into());
            }
            NetlinkPayload::InnerMessage(NewAddress(address) | DelAddress(address)) => {
                self.addresses.insert(address.header.index);
            }
            NetlinkPayload::InnerMessage(NewRoute(_) | DelRoute(_) | NewRule(_) | DelRule(_)) => self.routes = true,
            NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => self.lost = true,
            _ => {}
        }
    }
}
