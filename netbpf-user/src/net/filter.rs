//! Filters on clsact qdiscs.

use futures_util::TryStreamExt as _;
use rtnetlink::TrafficFilterGetRequest;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Netlink, describe, errno};
use crate::error::{Error, Result};

impl Netlink {
    /// Filters on what a device receives: priority and protocol of each (`tcm_info`). None where it has no such qdisc.
    pub(crate) async fn ingress_filters(&self, ifindex: u32) -> Result<Vec<u32>> {
        self.filters(ifindex, TrafficFilterGetRequest::ingress).await
    }

    /// The same of what it sends.
    pub(crate) async fn egress_filters(&self, ifindex: u32) -> Result<Vec<u32>> {
        self.filters(ifindex, TrafficFilterGetRequest::egress).await
    }

    async fn filters(
        &self,
        ifindex: u32,
        of: fn(TrafficFilterGetRequest) -> TrafficFilterGetRequest,
    ) -> Result<Vec<u32>> {
        let _listing = self.listing.lock().await;
        let list = of(self.handle.traffic_filter(ifindex as i32).get()).execute();
        match list.try_collect::<Vec<TcMessage>>().await {
            Ok(filters) => Ok(filters.iter().map(|filter| filter.header.info).collect()),
            Err(error) if is_without(errno(&error)) => Ok(Vec::new()),
            Err(error) => {
                Err(Error::Internal(format!("cannot list filters of device {ifindex}: {}", describe(&error))))
            }
        }
    }

    /// Removes the clsact qdisc of a device, if there is one, unless it has filters: those of others.
    pub(crate) async fn remove_empty_queue(&self, ifindex: u32) -> Result<()> {
        if !self.ingress_filters(ifindex).await?.is_empty() || !self.egress_filters(ifindex).await?.is_empty() {
            return Ok(());
        }
        let mut delete = self.handle.qdisc().del(ifindex as i32);
        let message = delete.message_mut();
        message.header.parent = TcHandle::CLSACT;
        message.attributes.push(TcAttribute::Kind("clsact".into()));
        match delete.execute().await {
            Err(error) if !is_without(errno(&error)) => Err(Error::Internal(format!(
                "cannot delete the clsact qdisc of device {ifindex}: {}",
                describe(&error)
            ))),
            _ => Ok(()),
        }
    }
}

/// Whether the kernel says that there is no such device or qdisc.
fn is_without(errno: i32) -> bool {
    matches!(errno, libc::EINVAL | libc::ENODEV | libc::ENOENT)
}
