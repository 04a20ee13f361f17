//! What earlier versions have written.

use serde_json::{Map, Value};

use crate::agent::DEFAULT_NETWORK;

/// What a container's end of the one network was, in the record of the container itself.
const OF_ENDPOINT: [&str; 8] = ["address", "address_v6", "mac", "mtu", "slot", "generation", "ifindex", "device"];

/// The record of a container in today's layout. Each tells by itself of which it is: a record is written anew when its container
/// changes.
pub(super) fn container(mut record: Value) -> Value {
    let Some(fields) = record.as_object_mut().filter(|fields| !fields.contains_key("endpoints")) else { return record };
    let mut endpoint: Map<String, Value> =
        OF_ENDPOINT.iter().filter_map(|name| Some(((*name).to_owned(), fields.remove(*name)?))).collect();
    endpoint.insert("network".into(), DEFAULT_NETWORK.into());
    endpoint.insert("name".into(), "eth0".into());
    fields.insert("endpoints".into(), Value::Array(vec![endpoint.into()]));
    record
}
