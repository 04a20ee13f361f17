//! Filters on clsact qdiscs.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::TcMessage;

use super::{Netlink, describe, errno};
use crate::error::{Error, Result};

impl Netlink {
    /// Filters on what a device receives: priority and protocol of each (`tcm_info`). None where it has no such qdisc.
    pub(crate) async fn ingress_filters(&self, ifindex: u32) -> Result<Vec<u32>> {
        let _listing = self.listing.lock().await;
        let list = self.handle.traffic_filter(ifindex as i32).get().ingress().execute();
        match list.try_collect::<Vec<TcMessage>>().await {
            Ok(filters) => Ok(filters.iter().map(|filter| filter.header.info).collect()),
            Err(error) if matches!(errno(&error), libc::EINVAL | libc::ENODEV | libc::ENOENT) => Ok(Vec::new()),
            Err(error) => {
                Err(Error::Internal(format!("cannot list filters of device {ifindex}: {}", describe(&error))))
            }
        }
    }
}
