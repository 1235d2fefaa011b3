//! First arguments that give the program one of this crate's roles.

/// Argument for the role of a machine's runtime ([`runtime_main`](crate::runtime_main)).
pub const RUNTIME_ROLE: &str = "__runtime";

/// Argument for the role that makes a template ([`template_main`](crate::template_main)).
pub const TEMPLATE_ROLE: &str = "__template";

/// Argument for the role of a file share ([`file_share_main`](crate::file_share_main)).
pub const FILE_SHARE_ROLE: &str = "__file-share";
