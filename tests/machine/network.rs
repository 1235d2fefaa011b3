//! The way out.

use end_to_end::Lab;

crate::tests![packages_can_be_listed_from_inside, proxies_are_handed_on];

/// Through the machine's own resolver and route, to where the host's apt finds Debian too.
fn packages_can_be_listed_from_inside(lab: &Lab) {
    let world = lab.user();
    world.inside(
        "dev",
        "sudo -E apt-get update -q && apt-cache policy bash | grep -q Candidate",
    );
}

fn proxies_are_handed_on(lab: &Lab) {
    let mut run = lab
        .root()
        .machine(&["run", "-n", "dev", "echo $http_proxy,$NO_PROXY"]);
    run.env("http_proxy", "http://proxy.example:3128")
        .env("NO_PROXY", "here");
    let printed = String::from_utf8(run.output().unwrap().stdout).unwrap();
    assert_eq!(printed, "http://proxy.example:3128,here\n");
}
