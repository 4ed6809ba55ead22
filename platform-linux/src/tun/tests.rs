//! On real devices, in network namespaces.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;
use crate::testing::{in_namespace, sh, until};

#[test]
fn a_new_device_is_ours_up_and_configured() {
    in_namespace(|| {
        let tun = Tun::open("emtest0", 1408).unwrap();
        let link = Netlink::open().unwrap().link("emtest0").unwrap().unwrap();
        assert_eq!((link.kind.as_str(), link.alias.as_str(), link.mtu, link.up), ("tun", ALIAS, 1408, true));
        assert_eq!(link.gso_max_size, GSO_MAX_SIZE);
        assert!(sh("ip -d link show emtest0").contains("gso_max_size 61072"));
        assert_eq!(sh("ip -6 address show dev emtest0"), "");
        assert_eq!(tun.name(), "emtest0");
    });
}

#[test]
fn it_survives_its_process_and_is_taken_over() {
    in_namespace(|| {
        drop(Tun::open("emtest0", 1408).unwrap());
        let before = sh("cat /proc/net/dev | grep -c emtest0");
        assert_eq!(before.trim(), "1");
        let index = Netlink::open().unwrap().link("emtest0").unwrap().unwrap().index;
        let again = Tun::open("emtest0", 1300).unwrap();
        let link = Netlink::open().unwrap().link("emtest0").unwrap().unwrap();
        assert_eq!((link.index, link.mtu), (index, 1300));
        drop(again);
    });
}

#[test]
fn a_device_that_came_to_no_use_ends_with_its_process_and_an_older_one_stays() {
    in_namespace(|| {
        let exists = || Netlink::open().unwrap().link("emtest0").unwrap().is_some();
        let tun = Tun::open("emtest0", 1408).unwrap();
        tun.withdraw().unwrap();
        drop(tun);
        // A program that another test begins has a copy of the device until its own text is loaded.
        until(|| !exists(), || sh("ip link"));
        drop(Tun::open("emtest0", 1408).unwrap());
        let taken_over = Tun::open("emtest0", 1408).unwrap();
        taken_over.withdraw().unwrap();
        drop(taken_over);
        assert!(exists());
    });
}

#[test]
fn a_device_of_another_program_is_named_and_left_alone() {
    for (make, what) in [
        ("ip link add emtest0 type veth peer name emtest1", "a veth device"),
        ("ip link add emtest0 type bridge", "a bridge device"),
        ("ip tuntap add emtest0 mode tun", "a TUN or TAP device of another program"),
        ("ip tuntap add emtest0 mode tap && ip link set emtest0 alias vpn", "alias \"vpn\""),
    ] {
        in_namespace(move || {
            sh(make);
            let before = sh("ip -d link show emtest0");
            let error = Tun::open("emtest0", 1408).err().unwrap();
            assert!(matches!(error, TunError::Foreign { .. }), "{error}");
            let message = error.to_string();
            assert!(message.contains(what) && message.contains("emtest0"), "{message}");
            assert_eq!(sh("ip -d link show emtest0"), before);
        });
    }
}

#[test]
fn a_device_in_use_names_its_process() {
    in_namespace(|| {
        let _held = Tun::open("emtest0", 1408).unwrap();
        let message = Tun::open("emtest0", 1408).err().unwrap().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    });
}

#[test]
fn a_name_that_cannot_be_is_refused() {
    for name in ["", "a-name-of-16-chr", "a/b", "a b"] {
        assert!(matches!(Tun::open(name, 1408), Err(TunError::Name(_))), "{name}");
    }
}

#[test]
fn missing_privilege_says_what_to_do() {
    let open = TunError::from_open(io::Error::from_raw_os_error(libc::EACCES)).to_string();
    assert!(open.contains("CAP_NET_ADMIN") && open.contains("/dev/net/tun"), "{open}");
    let closed = TunError::NoAccess { mode: Some(0o600) }.to_string();
    assert!(closed.contains("mode is 0600"), "{closed}");
    let attach = TunError::from_attach("x", io::Error::from_raw_os_error(libc::EPERM)).to_string();
    assert!(attach.contains("CAP_NET_ADMIN"), "{attach}");
    let none = TunError::from_open(io::Error::from_raw_os_error(libc::ENOENT)).to_string();
    assert!(none.contains("modprobe tun"), "{none}");
}

#[test]
fn stale_offloads_of_a_persistent_device_are_set_anew() {
    in_namespace(|| {
        let tun = Tun::open("emtest0", 1408).unwrap();
        device::set_offload(tun.as_fd(), 0).unwrap();
        drop(tun);
        let tun = Tun::open("emtest0", 1408).unwrap();
        sh("ip addr add 10.9.0.1/24 dev emtest0");
        UdpSocket::bind("10.9.0.1:0").unwrap().send_to(b"hello", "10.9.0.2:9").unwrap();
        let mut buffer = [0; 2048];
        let (header, len) = read_udp(&tun, &mut buffer);
        assert!(header.needs_csum);
        assert_eq!(len, 33);
    });
}

#[test]
fn a_deleted_device_is_told_apart_from_other_errors() {
    in_namespace(|| {
        let tun = Tun::open("emtest0", 1408).unwrap();
        assert!(matches!(tun.write_packet(&[0x55; 40]), Err(e) if !is_gone(&e)));
        sh("ip link delete emtest0");
        let mut buffer = [0; 2048];
        let error = loop {
            match tun.read(&mut buffer) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a deleted device still reads"),
                Err(e) => break e,
            }
        };
        assert!(is_gone(&error), "{error}");
        drop(tun);
        Tun::open("emtest0", 1408).unwrap();
    });
}

/// Reads until an IPv4 UDP packet comes: the kernel also sends its own router solicitations.
fn read_udp(tun: &Tun, buffer: &mut [u8]) -> (VnetHdr, usize) {
    loop {
        if let Some((header, len)) = tun.read(buffer).unwrap()
            && buffer[0] >> 4 == 4
            && buffer[9] == 17
        {
            return (header, len);
        }
        std::thread::yield_now();
    }
}

#[test]
fn a_super_packet_that_the_kernel_refuses_is_written_in_pieces() {
    in_namespace(|| {
        let mut tun = Tun::open("emtest0", 1408).unwrap();
        sh("ip addr add 10.9.0.1/24 dev emtest0");
        let mut socket = crate::udp::Socket::bind("10.9.0.1:0".parse().unwrap()).unwrap();
        let datagram = [7; 1000];
        socket.send("10.9.0.2:9".parse().unwrap(), None, &[IoSlice::new(&datagram); 3]);
        let mut buffer = [0; 8192];
        let (header, len) = read_udp(&tun, &mut buffer);
        assert_eq!((header.gso_type, len), (offload::GsoType::UdpL4, 28 + 3000));
        let unknown = VnetHdr { gso_type: offload::GsoType::Other(0x7f), ..header }.emit();
        let parts = [IoSlice::new(&unknown), IoSlice::new(&buffer[..len])];
        let received = || sh("awk '/emtest0/ {print $3}' /proc/net/dev").trim().parse::<u64>().unwrap();
        for refusals in 1..=3 {
            assert!(tun.takes_super_packets());
            tun.write(&SuperPacket { header, parts: &parts, packets: 3 }).unwrap();
            assert_eq!(received(), 3 * refusals);
        }
        assert!(!tun.takes_super_packets() && !tun.takes_udp_super_packets());
    });
}
