//! What somebody asks for of a container, as far as it can be judged without looking at the instance.

use super::check;
use super::connect::Asked;
use super::place::Place;
use crate::api::types::CreateRequest;
use crate::error::Result;
use crate::spec::PublishSpec;
use crate::store::ExtraHost;

/// A request that has been read.
pub(super) struct Wish {
    pub(super) name: String,
    pub(super) hostname: String,
    pub(super) specs: Vec<PublishSpec>,
    pub(super) place: Place,
    pub(super) asked: Asked,
    pub(super) extra_hosts: Vec<ExtraHost>,
}

impl Wish {
    /// Refuses what makes no sense by itself. Who has no name gets one of the id.
    pub(super) fn read(request: &CreateRequest, id: &str) -> Result<Self> {
        let name = request.name.clone().unwrap_or_else(|| id[..12].to_owned());
        check::name("container", &name)?;
        let hostname = request.hostname.clone().unwrap_or_else(|| name.clone());
        check::hostname(&hostname)?;
        let specs = check::specs(&request.publish, &request.publish_exposed)?;
        let place = Place::of(request)?;
        let asked = Asked::of(request)?;
        let extra_hosts = check::extra_hosts(&request.extra_hosts)?;
        check::resolver(&request.dns, &request.dns_search, &request.dns_options)?;
        Ok(Self { name, hostname, specs, place, asked, extra_hosts })
    }
}
