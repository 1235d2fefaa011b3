//! What the commands call: reaches the service, starting it when it is not there.
