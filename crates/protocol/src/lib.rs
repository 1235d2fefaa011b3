//! What runtime, client and guest agent say to each other.
