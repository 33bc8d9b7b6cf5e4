//! The default router of this machine, and the own address towards it.
//!
//! The kernel's table of IPv4 routes is read as a file, so no tool has to be there and nothing is sent. On systems
//! without that file there is no router, and no port is asked for.
//!
//! Limits: [`MAX_TABLE_BYTES`]. Source: `proc_pid_net(5)`, `include/net/route.h`.

use std::{
    fs::File,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

/// Bytes of the table of routes that are looked at.
const MAX_TABLE_BYTES: u64 = 256 * 1024;
/// The route can be used.
const RTF_UP: u32 = 1;
/// The route leads to a router.
const RTF_GATEWAY: u32 = 2;
/// Any port: nothing is sent to it.
const NO_PORT: u16 = 9;

/// How this machine is connected with its router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The router.
    pub gateway: Ipv4Addr,
    /// The own address that packets to it leave from.
    pub own: Ipv4Addr,
}

/// The way to the default router, if there is one.
pub fn look() -> Option<Way> {
    let mut table = String::new();
    File::open("/proc/net/route")
        .ok()?
        .take(MAX_TABLE_BYTES)
        .read_to_string(&mut table)
        .ok()?;
    let gateway = default_gateway(&table)?;
    // Connecting a datagram socket sends nothing; the system chooses the address.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((gateway, NO_PORT)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) if !own.is_unspecified() => Some(Way { gateway, own }),
        _ => None,
    }
}

/// The router of the default route with the smallest metric.
fn default_gateway(table: &str) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        // The kernel writes addresses as they are in memory, as one hexadecimal number.
        let mut hex = || u32::from_str_radix(words.next()?, 16).ok();
        let (destination, gateway, flags) = (hex()?, hex()?, hex()?);
        let metric: u32 = words.nth(2)?.parse().ok()?;
        let mask = u32::from_str_radix(words.next()?, 16).ok()?;
        let usable = flags & (RTF_UP | RTF_GATEWAY) == RTF_UP | RTF_GATEWAY;
        (destination == 0 && mask == 0 && gateway != 0 && usable)
            .then(|| (metric, Ipv4Addr::from(gateway.to_ne_bytes())))
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, ip)| ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel of this machine would write it.
    fn written(ip: [u8; 4]) -> String {
        format!("{:08X}", u32::from_ne_bytes(ip))
    }

    fn table(rows: &[(&str, String, &str, &str, u32)]) -> String {
        let mut text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n".to_owned();
        for (destination, gateway, flags, mask, metric) in rows {
            let row = format!(
                "eth0\t{destination}\t{gateway}\t{flags}\t0\t0\t{metric}\t{mask}\t0\t0\t0\n"
            );
            text.push_str(&row);
        }
        text
    }

    #[test]
    fn the_default_route_with_the_smallest_metric_names_the_router() {
        let (near, far) = (written([192, 168, 1, 1]), written([10, 0, 0, 1]));
        let lan = written([192, 168, 1, 0]);
        let text = table(&[
            ("00000000", far, "0003", "00000000", 600),
            ("00000000", near.clone(), "0003", "00000000", 100),
            (&lan, near, "0003", "00FFFFFF", 0),
        ]);
        assert_eq!(default_gateway(&text), Some(Ipv4Addr::new(192, 168, 1, 1)));
    }

    #[test]
    fn without_a_router_there_is_none() {
        let gateway = written([192, 168, 1, 1]);
        for text in [
            String::new(),
            "garbage\n\n\u{fffd} \t x\n".repeat(9),
            table(&[("00000000", gateway.clone(), "0002", "00000000", 0)]),
            table(&[("00000000", written([0; 4]), "0001", "00000000", 0)]),
            table(&[("0001A8C0", gateway, "0003", "00FFFFFF", 0)]),
        ] {
            assert_eq!(default_gateway(&text), None, "{text}");
        }
    }
}
