use std::net::TcpListener;
use std::thread;

use super::*;

/// A connection, and its other end.
fn connect(net: &System) -> (Box<dyn Socket>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = net.connect(listener.local_addr().unwrap(), &Config::default()).unwrap();
    (socket, listener.accept().unwrap().0)
}

#[test]
fn a_wait_ends_with_data_with_time_and_with_a_close_from_another_thread() {
    let net = System::new();
    let (socket, mut peer) = connect(&net);
    let poll = |read, write, closed: Option<&Closed>, until| {
        let mut ready = false;
        net.poll(&mut [Interest { socket: &*socket, read, write, ready: &mut ready }], closed, until).unwrap();
        ready
    };
    while !socket.finish_connect().unwrap() {
        assert!(poll(false, true, None, Time::NEVER));
    }
    assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let until = net.now().after(Duration::from_millis(5));
    assert!(!poll(true, false, None, until) && net.now() >= until && net.coarse_now() <= net.now());
    let until = net.now().after(Duration::from_millis(5));
    assert!(net.poll(&mut [], None, until).is_ok() && net.now() >= until, "nothing to wait for but time");
    peer.write_all(b"x").unwrap();
    assert!(poll(true, false, None, Time::NEVER) && poll(true, false, None, Time::ZERO));
    assert_eq!(socket.read(&mut [0; 4]).unwrap(), 1);
    let closed = Arc::new(Closed::default());
    let closer = thread::spawn({
        let closed = closed.clone();
        move || closed.close()
    });
    assert!(!poll(true, false, Some(&closed), Time::NEVER));
    closer.join().unwrap();
    assert!(closed.is_closed());
    assert!(!poll(true, false, Some(&closed), Time::NEVER));
    // The end of the stream counts as readable, also after the bytes before it.
    peer.write_all(b"y").unwrap();
    drop(peer);
    assert!(poll(true, false, None, Time::NEVER) && socket.read(&mut [0; 4]).unwrap() == 1);
    assert!(poll(true, false, None, Time::NEVER) && socket.read(&mut [0; 4]).unwrap() == 0);
}

#[test]
fn a_connection_to_itself_is_no_connection() {
    // Bound to the port it dials, as a system does by chance.
    let socket = RawSocket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let own = socket.local_addr().unwrap();
    socket.connect(&own).unwrap();
    assert_eq!(Tcp(socket.into()).finish_connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn an_aborted_connection_is_reset_and_not_closed() {
    let net = System::new();
    let (socket, mut peer) = connect(&net);
    socket.abort();
    assert_eq!(peer.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_forked_child_and_its_parent_do_not_keep_each_other_awake() {
    // As a child finds what its parent made.
    let pair = Pair { process: std::process::id() + 1, ..Pair::new().unwrap() };
    pair.wake();
    pair.read.set_nonblocking(true).unwrap();
    assert_eq!((&pair.read).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let closed = Closed::default();
    let waker = |process| closed.waker(process, || Ok(Arc::new(Pair::new()?))).unwrap();
    let [parents, again, childs] = [1, 1, 2].map(waker);
    assert!(Arc::ptr_eq(&parents, &again) && !Arc::ptr_eq(&parents, &childs));
}

#[test]
fn waits_are_rounded_up_to_whole_milliseconds() {
    let ms = |wait| {
        let spec = rounded_up(wait);
        (spec.tv_sec, spec.tv_nsec)
    };
    assert_eq!(ms(Duration::ZERO), (0, 0));
    assert_eq!(ms(Duration::from_nanos(1)), (0, 1_000_000));
    assert_eq!(ms(Duration::from_millis(1_500)), (1, 500_000_000));
}

/// Other systems refuse such buffers.
#[test]
#[cfg(target_os = "linux")]
fn settings_that_the_system_cannot_express_become_the_nearest_that_it_can() {
    let set = |config| {
        let socket = RawSocket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        set_options(&socket, &config).unwrap();
        socket
    };
    // The low 32 bits of such a size are zero.
    let large = usize::try_from(1_u64 << 32).unwrap_or(usize::MAX);
    let [least, most, large] = [0, i32::MAX as usize, large].map(|size| {
        let socket = set(Config { receive_buffer: Some(size), send_buffer: Some(size), ..Config::default() });
        (socket.recv_buffer_size().unwrap(), socket.send_buffer_size().unwrap())
    });
    assert!(least.0 < most.0 && least.1 < most.1 && large == most, "{least:?}, {most:?}, {large:?}");
    for (nanos, ms) in [(0, 1), (999_999, 1), (2_500_000, 2), (u64::MAX, i32::MAX as u64)] {
        let socket = set(Config { tcp_user_timeout: Some(Duration::from_nanos(nanos)), ..Config::default() });
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(ms)), "{nanos} ns");
    }
}
