//! Tier 2: what a user can observe, over real namespaces, devices and sockets. Needs root.
//!
//! Every test stands in a rig of its own: an outside machine, a host with its own agent, and
//! containers. Names of tests are sentences about behaviour.

mod allowed;
mod api;
mod arp;
mod basics;
mod broadcast;
mod bulk;
mod churn;
mod crash;
mod differential;
mod docker_users;
mod doctor;
mod drivers;
mod errors;
mod exposure;
mod flood;
mod flows;
mod fragments;
mod gateway_errors;
mod hairpin;
mod hostile;
mod icmp;
mod lab;
mod left_sums;
mod lifecycle;
mod mapping;
mod masquerade;
mod modes;
mod mtu;
mod names;
mod networks;
mod package;
mod peer;
mod perimeter;
mod privileges;
mod process;
mod publish;
mod reboot;
mod rebuild;
mod refusals;
mod repair;
mod restart;
mod service;
mod settings;
mod shared;
mod sockets;
mod store;
mod taps;
mod tcp;
mod udp;
mod uninstall;
mod upgrade;
mod uplinks;
mod v6;
