//! What a network namespace holds, as rtnetlink(7) and its kin say it: links, and the tables that are kept as bytes.

pub mod conntrack;
pub mod ethtool;
pub mod ipset;
pub mod legacy;
pub mod links;
pub mod others;
pub mod tables;
pub mod traffic;

#[cfg(test)]
mod tests;
