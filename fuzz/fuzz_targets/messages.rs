//! Messages between host and agent, in both directions, and between client and runtime. A message
//! that is accepted is the same after it was written and read again.
#![no_main]

use container_protocol::{
    CommandControl, CommandEvent, CommandRequest, ControlEvent, ControlRequest, HostPort, Port,
    frame, local,
};
use futures::executor::block_on;
use libfuzzer_sys::fuzz_target;
use serde::{Serialize, de::DeserializeOwned};

fuzz_target!(|input: &[u8]| {
    read_and_write::<Port>(input);
    read_and_write::<HostPort>(input);
    read_and_write::<ControlRequest>(input);
    read_and_write::<ControlEvent>(input);
    read_and_write::<CommandRequest>(input);
    read_and_write::<CommandControl>(input);
    read_and_write::<CommandEvent>(input);
    read_and_write::<local::RuntimeRequest>(input);
    read_and_write::<local::RuntimeReport>(input);
});

fn read_and_write<M: Serialize + DeserializeOwned>(body: &[u8]) {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    let Ok(message) = block_on(frame::read::<M>(&mut &bytes[..])) else {
        return;
    };
    let mut written = Vec::new();
    block_on(frame::write(&mut written, &message)).unwrap();
    let again: M = block_on(frame::read(&mut &written[..])).unwrap();
    assert_eq!(
        serde_json::to_string(&message).unwrap(),
        serde_json::to_string(&again).unwrap()
    );
}
