//! The machine's network interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use container_protocol::Network;
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{address::AddressHeaderFlags, link::LinkAttribute},
};

use crate::power;

/// Why the network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel's netlink socket could not be opened.
    #[error("opening a netlink socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The kernel refuses a request.
    #[error("{doing}: {source}")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// The refusal.
        source: rtnetlink::Error,
    },
    /// There is no interface.
    #[error(
        "the machine has no network interface: has the kernel CONFIG_VIRTIO_PCI and CONFIG_VIRTIO_NET?"
    )]
    NoInterface,
}

/// Brings up the loopback interface and, where there is a network, the machine's own.
pub async fn set_up(network: Option<&Network>) -> Result<(), NetworkError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let done = configure(&handle, network).await;
    connection.abort();
    done
}

async fn configure(handle: &Handle, network: Option<&Network>) -> Result<(), NetworkError> {
    let links = handle.link().get().execute().try_collect::<Vec<_>>().await;
    let links = links.map_err(refused("listing the network interfaces"))?;
    let named = |wanted: &dyn Fn(&str) -> bool| {
        links.iter().find_map(|link| {
            let matches = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfName(name) if wanted(name));
            link.attributes.iter().any(matches).then_some(link.header.index)
        })
    };
    if let Some(loopback) = named(&|name| name == "lo") {
        bring_up(handle, loopback).await?;
    }
    let Some(network) = network else {
        return Ok(());
    };
    let index = named(&|name| name.starts_with('e')).ok_or(NetworkError::NoInterface)?;
    bring_up(handle, index).await?;
    handle
        .address()
        .add(index, IpAddr::V4(network.address), network.prefix)
        .execute()
        .await
        .map_err(refused("giving the machine its address"))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(network.gateway)
        .build();
    handle
        .route()
        .add(route)
        .execute()
        .await
        .map_err(refused("setting the default route"))?;
    // A kernel without IPv6, or told to have none, is of use as well.
    if let Err(error) = configure_v6(handle, index, network).await {
        power::say(&format!("the machine has no IPv6: {error}"));
    }
    Ok(())
}

async fn configure_v6(handle: &Handle, index: u32, network: &Network) -> Result<(), NetworkError> {
    let address = IpAddr::V6(network.address6);
    let mut request = handle.address().add(index, address, network.prefix6);
    // Nobody else has it, so it need not be asked for.
    request.message_mut().header.flags = AddressHeaderFlags::Nodad;
    let added = request.execute().await;
    added.map_err(refused("giving the machine its IPv6 address"))?;
    let route = RouteMessageBuilder::<Ipv6Addr>::new()
        .gateway(network.gateway6)
        .build();
    let added = handle.route().add(route).execute().await;
    added.map_err(refused("setting the default route in IPv6"))
}

async fn bring_up(handle: &Handle, index: u32) -> Result<(), NetworkError> {
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .map_err(refused("bringing a network interface up"))
}

fn refused(doing: &'static str) -> impl Fn(rtnetlink::Error) -> NetworkError {
    move |source| NetworkError::Refused { doing, source }
}
