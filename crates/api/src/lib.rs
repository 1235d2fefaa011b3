//! Requests, replies and errors on the wire between client and service.
