//! A machine's addresses.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One pair of addresses: the host reaches the machine at 127.19.x.y, and the machine itself has
/// 198.19.x.y, out of a network that RFC 2544 sets aside for measurements, so that nothing a machine
/// wants to reach has it. (The other half of it is what proxies that make up addresses take.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Ipv4Addr", into = "Ipv4Addr")]
pub struct MachineAddress {
    /// The last two bytes of both; the first of them is never 0 or 255.
    last: [u8; 2],
}

/// An address that no machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no machine's address: those are 127.19.1.0 to 127.19.254.255")]
pub struct NotAMachineAddress(Ipv4Addr);

impl MachineAddress {
    /// How many there are.
    pub const COUNT: u32 = 254 * 256;

    /// The one of this number; from [`COUNT`](Self::COUNT) on they come again.
    pub fn numbered(number: u32) -> MachineAddress {
        let number = number % MachineAddress::COUNT;
        MachineAddress {
            last: [(number / 256 + 1) as u8, (number % 256) as u8],
        }
    }

    /// Where the host reaches the machine.
    pub fn host(self) -> Ipv4Addr {
        let [high, low] = self.last;
        Ipv4Addr::new(127, 19, high, low)
    }

    /// The one of which this is the machine's own, if it is one.
    pub fn of_guest(guest: Ipv4Addr) -> Option<MachineAddress> {
        match guest.octets() {
            [198, 19, high @ 1..=254, low] => Some(MachineAddress { last: [high, low] }),
            _ => None,
        }
    }

    /// The machine's own.
    pub fn guest(self) -> Ipv4Addr {
        let [high, low] = self.last;
        Ipv4Addr::new(198, 19, high, low)
    }
}

impl TryFrom<Ipv4Addr> for MachineAddress {
    type Error = NotAMachineAddress;

    /// Takes the address on the host.
    fn try_from(host: Ipv4Addr) -> Result<MachineAddress, NotAMachineAddress> {
        match host.octets() {
            [127, 19, high @ 1..=254, low] => Ok(MachineAddress { last: [high, low] }),
            _ => Err(NotAMachineAddress(host)),
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
    fn all_addresses_lie_in_their_range() {
        let first = MachineAddress::numbered(0);
        assert_eq!(first.host(), Ipv4Addr::new(127, 19, 1, 0));
        assert_eq!(first.guest(), Ipv4Addr::new(198, 19, 1, 0));
        let last = MachineAddress::numbered(MachineAddress::COUNT - 1);
        assert_eq!(last.host(), Ipv4Addr::new(127, 19, 254, 255));
        assert_eq!(MachineAddress::numbered(MachineAddress::COUNT), first);
        assert_eq!(MachineAddress::try_from(last.host()), Ok(last));
        assert_eq!(MachineAddress::of_guest(last.guest()), Some(last));
        assert_eq!(MachineAddress::of_guest(last.host()), None);
        for other in [[127, 0, 0, 1], [127, 19, 0, 1], [127, 19, 255, 1]] {
            assert!(MachineAddress::try_from(Ipv4Addr::from(other)).is_err());
        }
    }
}
