//! Addresses of machines.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// The pair of addresses of a machine: 127.19.x.y on the host, and 198.19.x.y in the machine.
///
/// 198.18.0.0/15 is reserved for benchmarks (RFC 2544), so no destination of a machine has such an
/// address. The lower half, 198.18.0.0/16, is not used here: proxies with synthetic addresses use
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Addr", into = "Ipv4Addr")]
pub struct MachineAddress {
    /// The last two bytes of both addresses; the first of them is never 0 or 255.
    last: [u8; 2],
}

/// The address is not a machine's address on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid machine address {0}: valid are 127.19.1.0 to 127.19.254.255")]
pub struct InvalidMachineAddress(Ipv4Addr);

impl MachineAddress {
    /// Number of addresses.
    pub const COUNT: u32 = 254 * 256;

    /// Returns the address with this index, modulo [`COUNT`](Self::COUNT).
    pub fn from_index(index: u32) -> MachineAddress {
        let index = index % MachineAddress::COUNT;
        MachineAddress {
            last: [(index / 256 + 1) as u8, (index % 256) as u8],
        }
    }

    /// Returns the address at which the host reaches the machine.
    pub fn host(self) -> Ipv4Addr {
        let [high, low] = self.last;
        Ipv4Addr::new(127, 19, high, low)
    }

    /// Returns the pair with this address in the machine; `None` for any other address.
    pub fn from_guest(guest: Ipv4Addr) -> Option<MachineAddress> {
        match guest.octets() {
            [198, 19, high @ 1..=254, low] => Some(MachineAddress { last: [high, low] }),
            _ => None,
        }
    }

    /// Returns the address that the machine has itself.
    pub fn guest(self) -> Ipv4Addr {
        let [high, low] = self.last;
        Ipv4Addr::new(198, 19, high, low)
    }
}

impl TryFrom<Ipv4Addr> for MachineAddress {
    type Error = InvalidMachineAddress;

    /// Converts the address on the host.
    fn try_from(host: Ipv4Addr) -> Result<MachineAddress, InvalidMachineAddress> {
        match host.octets() {
            [127, 19, high @ 1..=254, low] => Ok(MachineAddress { last: [high, low] }),
            _ => Err(InvalidMachineAddress(host)),
        }
    }
}

impl From<MachineAddress> for Ipv4Addr {
    fn from(address: MachineAddress) -> Ipv4Addr {
        address.host()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_their_range() {
        let first = MachineAddress::from_index(0);
        assert_eq!(first.host(), Ipv4Addr::new(127, 19, 1, 0));
        assert_eq!(first.guest(), Ipv4Addr::new(198, 19, 1, 0));
        let last = MachineAddress::from_index(MachineAddress::COUNT - 1);
        assert_eq!(last.host(), Ipv4Addr::new(127, 19, 254, 255));
        assert_eq!(MachineAddress::from_index(MachineAddress::COUNT), first);
        assert_eq!(MachineAddress::try_from(last.host()), Ok(last));
        assert_eq!(MachineAddress::from_guest(last.guest()), Some(last));
        assert_eq!(MachineAddress::from_guest(last.host()), None);
        for other in [[127, 0, 0, 1], [127, 19, 0, 1], [127, 19, 255, 1]] {
            assert!(MachineAddress::try_from(Ipv4Addr::from(other)).is_err());
        }
    }
}
