//! The servers in each guest.

/// Ports of the servers in each guest: a sink, a source without end, and an HTTP server.
pub(crate) const SERVERS: [u16; 3] = [9000, 9001, 9002];

/// Shell lines that start the servers. The last command of each line does not end.
pub(crate) const SERVING: [&str; 3] = [
    "echo 'cat > /dev/null' > /tmp/take; exec nc -ll -p 9000 -e sh /tmp/take",
    "exec nc -ll -p 9001 -e cat /dev/zero",
    "mkdir -p /tmp/www; echo x > /tmp/www/index.html; exec httpd -f -p 9002 -h /tmp/www",
];

/// Ports on the host that lead to the [servers](SERVERS), in their order.
pub(crate) type Ports = [u16; SERVERS.len()];
