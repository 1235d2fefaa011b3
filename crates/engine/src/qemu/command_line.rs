//! Builds QEMU's command line (qemu(1), from "Standard options" on).

use std::os::fd::OwnedFd;

use super::{child::Inherited, time_stamp_counter::Frequency};
use crate::{
    accelerator::Accelerator,
    virtual_machine::{Channel, FileShare, NetworkCard, SharePort, VirtualMachine},
};

/// Name of the block node of the machine's disk.
pub(super) const DISK_NODE: &str = "disk";

/// The device of a file share, and the size of its request queue.
pub(super) const SHARE_DEVICE: &str = "vhost-user-fs-pci";
pub(super) const SHARE_QUEUE: u16 = 1024;

/// Kernel parameters of every machine. They name no single machine: the agent receives its identity
/// over the channel, so one booted kernel can become any machine.
///
/// With `panic=-1` the kernel reboots at once after a panic, and QEMU's `-no-reboot` turns that
/// into the machine's end. Most others shorten the boot: no self-tests, no probing for absent
/// hardware, trust in the processor's random numbers. An explicit `trace_clock` silences the
/// warning of kernels that consider their clock unstable. All devices reach all of the memory, so
/// those with more than 2 GiB need no 64 MiB of bounce buffers.
const PARAMETERS: [&str; 10] = [
    "console=ttyS0",
    "panic=-1",
    "random.trust_cpu=on",
    "cryptomgr.notests",
    "no_timer_check",
    "i8042.noaux",
    "i8042.nokbd",
    "8250.nr_uarts=1",
    "trace_clock=local",
    "swiotlb=noforce",
];

/// Kernel parameters for emulated processors.
///
/// A fixed number of delay loops per tick: without it every processor calibrates its loop, which
/// takes 0.1 s and varies from boot to boot. No device here needs exact delays, and no processor
/// the 10 ms that the kernel would wait for its start.
///
/// Memory is cleared when it is allocated. The emulator keeps translations of the code in a page
/// until the guest or a device of its own writes there. It does not notice the writes of the file
/// share, which is another process, so a program that was read from a share would run the code of
/// the page's former contents.
const EMULATED_PARAMETERS: [&str; 3] = ["lpj=10000000", "cpu_init_udelay=0", "init_on_alloc=1"];

/// Features of an emulated processor for which programs copy and clear memory byte by byte, with
/// `rep movsb` and `rep stosb`. The emulator runs each step by itself, and those in a page whose
/// code it has translated are slow: clearing such a page takes milliseconds.
const SLOW_FEATURES: &str = ",erms=off,fsrm=off";

/// Arguments of one QEMU process.
#[derive(Debug)]
pub(super) struct CommandLine {
    arguments: Vec<String>,
    /// The arguments without those that name this machine, its files and its addresses. A saved
    /// machine can only be restored with the same ones.
    shape: Vec<String>,
}

impl CommandLine {
    /// Builds the arguments for `machine`. Its descriptors move to `inherited`. `counter` is the
    /// frequency of an emulated processor's time stamp counter, if it is known.
    pub(super) fn new(
        machine: VirtualMachine,
        accelerator: Accelerator,
        counter: Option<Frequency>,
        control: OwnedFd,
        inherited: &mut Inherited,
    ) -> CommandLine {
        let mut line = CommandLine {
            arguments: Vec::new(),
            shape: Vec::new(),
        };
        line.add_own(
            "-name",
            format!("guest={},process=machine-{}", machine.name, machine.name),
        );
        line.flags(["-nodefaults", "-no-user-config", "-no-reboot", "-S"]);
        line.add("-display", "none");
        line.add(
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        );
        line.processor(&machine, accelerator);
        line.memory(machine.memory);
        line.kernel(&machine, accelerator, counter);
        line.add(
            "-chardev",
            format!("socket,id=control,fd={}", inherited.add(control)),
        );
        line.add("-mon", "chardev=control,mode=control");
        let console = inherited.add(machine.console);
        line.add(
            "-chardev",
            format!("file,id=console,append=on,path=/proc/self/fd/{console}"),
        );
        line.add("-serial", "chardev:console");
        line.disk(&machine.disk.display().to_string());
        line.channel(machine.channel, inherited);
        for share in machine.file_shares {
            line.file_share(share, inherited);
        }
        if let Some(network) = machine.network {
            line.network(network, inherited);
        }
        line.share_ports();
        line.add("-device", "virtio-rng-pci");
        line.add("-device", "virtio-balloon-pci,free-page-reporting=on");
        line
    }

    /// Returns the arguments in order.
    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Returns the arguments that do not differ between machines with equal hardware.
    pub(super) fn shape(&self) -> &[String] {
        &self.shape
    }

    /// Lets QEMU wait for a saved machine instead of starting the kernel, which it need not read.
    pub(super) fn await_restore(&mut self) {
        for option in ["-kernel", "-initrd", "-append"] {
            if let Some(at) = self.arguments.iter().position(|it| it == option) {
                self.arguments.drain(at..=at + 1);
            }
        }
        self.add_own("-incoming", "defer");
    }

    fn add(&mut self, option: &str, value: impl Into<String>) {
        let argument = [option.to_owned(), value.into()];
        self.shape.extend(argument.clone());
        self.arguments.extend(argument);
    }

    /// Adds an argument that differs between machines with equal hardware.
    fn add_own(&mut self, option: &str, value: impl Into<String>) {
        self.arguments.extend([option.to_owned(), value.into()]);
    }

    fn flags<const N: usize>(&mut self, flags: [&str; N]) {
        self.shape.extend(flags.map(str::to_owned));
        self.arguments.extend(flags.map(str::to_owned));
    }

    fn processor(&mut self, machine: &VirtualMachine, accelerator: Accelerator) {
        let (acceleration, model) = match accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Hvf => ("hvf", "host"),
            Accelerator::Tcg => ("tcg,thread=multi", "max"),
        };
        self.add("-accel", acceleration);
        self.add(
            "-cpu",
            match (machine.virtualization, accelerator) {
                (true, Accelerator::Tcg) => format!("{model},svm=on{SLOW_FEATURES}"),
                (true, _) => model.to_owned(),
                (false, Accelerator::Tcg) => format!("{model},svm=off,vmx=off{SLOW_FEATURES}"),
                (false, _) => format!("{model},svm=off,vmx=off"),
            },
        );
        self.add("-smp", machine.cpus.to_string());
    }

    /// Adds the memory. It is shared, because file share processes access the guest's buffers.
    fn memory(&mut self, bytes: u64) {
        self.add("-m", format!("{}k", bytes / 1024));
        self.add(
            "-object",
            format!(
                "memory-backend-memfd,id=memory,share=on,size={}k",
                bytes / 1024
            ),
        );
        self.add(
            "-machine",
            "q35,memory-backend=memory,usb=off,vmport=off,smbus=off,sata=off",
        );
        // qboot, a minimal firmware: it only starts the kernel.
        self.add("-bios", "qboot.rom");
    }

    /// Adds the kernel. Its shape leaves out the frequency of the counter, with which a saved
    /// machine could still be restored.
    fn kernel(
        &mut self,
        machine: &VirtualMachine,
        accelerator: Accelerator,
        counter: Option<Frequency>,
    ) {
        let kernel = &machine.kernel;
        self.add_own("-kernel", kernel.image.display().to_string());
        self.add_own("-initrd", kernel.initramfs.display().to_string());
        let emulated = (accelerator == Accelerator::Tcg).then_some(EMULATED_PARAMETERS);
        let ours = PARAMETERS.into_iter().chain(emulated.into_iter().flatten());
        let ours = ours.chain([skipped_initcalls(machine.virtualization, accelerator)]);
        let parameters = ours.chain([kernel.parameters.as_str()]);
        let mut parameters: Vec<&str> = parameters.filter(|it| !it.is_empty()).collect();
        self.shape
            .extend(["-append".to_owned(), parameters.join(" ")]);
        // The kernel would measure it by an emulated timer, which fails on a busy host: the
        // machine's clock can be a hundred times too fast then.
        let counter = counter.map(Frequency::parameter).unwrap_or_default();
        if !counter.is_empty() {
            parameters.insert(0, &counter);
        }
        self.add_own("-append", parameters.join(" "));
    }

    /// Adds the disk. Discards and blocks of zeroes become holes in the host's file. Writes are
    /// flushed only when the guest flushes, so a crash of the host loses what a crash of a physical
    /// machine would.
    fn disk(&mut self, path: &str) {
        self.add_own(
            "-blockdev",
            format!(
                "driver=qcow2,node-name={DISK_NODE},discard=unmap,detect-zeroes=unmap,\
                 file.driver=file,file.discard=unmap,file.filename={}",
                escape(path)
            ),
        );
        self.add(
            "-device",
            format!("virtio-blk-pci,drive={DISK_NODE},werror=stop"),
        );
    }

    fn channel(&mut self, channel: Channel, inherited: &mut Inherited) {
        let (name, number) = (channel.name, inherited.add(channel.connection));
        self.add("-device", "virtio-serial-pci,max_ports=2");
        self.add("-chardev", format!("socket,id=channel,fd={number}"));
        self.add(
            "-device",
            format!("virtserialport,chardev=channel,name={name}"),
        );
    }

    fn file_share(&mut self, share: FileShare, inherited: &mut Inherited) {
        let (tag, number) = (share.tag, inherited.add(share.connection));
        self.add("-chardev", format!("socket,id=share-{tag},fd={number}"));
        self.add(
            "-device",
            format!("{SHARE_DEVICE},chardev=share-{tag},tag={tag},queue-size={SHARE_QUEUE}"),
        );
    }

    /// Adds the ports that file shares are attached to. They are always there, so that all machines
    /// have the same hardware.
    fn share_ports(&mut self) {
        for port in SharePort::all() {
            let id = port_id(port);
            let chassis = port.number() + 1;
            self.add(
                "-device",
                format!("pcie-root-port,id={id},chassis={chassis}"),
            );
        }
    }

    /// Adds the network card, with the largest possible receive queue: a frame of 64 KiB takes some
    /// thirty buffers of it.
    fn network(&mut self, card: NetworkCard, inherited: &mut Inherited) {
        let number = inherited.add(card.connection);
        self.add(
            "-netdev",
            format!("dgram,id=network,local.type=fd,local.str={number}"),
        );
        let address = card.address.map(|byte| format!("{byte:02x}")).join(":");
        let device = format!(
            "virtio-net-pci,netdev=network,romfile=,host_mtu={},rx_queue_size=1024",
            card.mtu
        );
        self.add_own("-device", format!("{device},mac={address}"));
        self.shape.push(device);
    }
}

/// Returns the parameter with what a kernel has built in and should not start.
///
/// The source of randomness from the processor's jitter measures it for 40 ms on an emulated one.
/// The kernel seeds its generators from the processor's instruction and the engine's device too.
/// KVM would print errors for the vendor whose extensions the guest's processor does not have.
fn skipped_initcalls(virtualization: bool, accelerator: Accelerator) -> &'static str {
    match (virtualization, accelerator) {
        (false, _) => "initcall_blacklist=jent_mod_init,svm_init,vmx_init",
        (true, Accelerator::Tcg) => "initcall_blacklist=jent_mod_init,vmx_init",
        (true, _) => "initcall_blacklist=jent_mod_init",
    }
}

/// Returns the id of the bus of a port.
pub(super) fn port_id(port: SharePort) -> String {
    format!("share-port{}", port.number())
}

/// Escapes a value for an option list: QEMU reads `,,` as a comma.
fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtual_machine::Kernel;

    fn line(virtualization: bool) -> Vec<String> {
        command_line("dev", virtualization).arguments
    }

    fn command_line(name: &str, virtualization: bool) -> CommandLine {
        command_line_with_counter(name, virtualization, 2000)
    }

    fn command_line_with_counter(name: &str, virtualization: bool, megahertz: u64) -> CommandLine {
        let descriptor = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let machine = VirtualMachine {
            name: name.into(),
            cpus: 3,
            memory: 1 << 30,
            virtualization,
            kernel: Kernel {
                image: "/k".into(),
                initramfs: "/i".into(),
                parameters: "quiet".into(),
            },
            disk: format!("/a,b/{name}/disk").into(),
            file_shares: vec![FileShare {
                tag: "home".into(),
                connection: descriptor(),
            }],
            network: Some(NetworkCard {
                connection: descriptor(),
                address: [2, 0, 198, 19, 1, u8::try_from(name.len()).unwrap()],
                mtu: 65520,
            }),
            channel: Channel {
                connection: descriptor(),
                name: "agent".into(),
            },
            console: descriptor(),
            engine_log: "/log2".into(),
        };
        let mut inherited = Inherited::default();
        let counter = Some(Frequency(megahertz));
        CommandLine::new(
            machine,
            Accelerator::Tcg,
            counter,
            descriptor(),
            &mut inherited,
        )
    }

    #[test]
    fn a_comma_in_a_path_is_escaped() {
        assert!(
            line(false)
                .iter()
                .any(|argument| argument.ends_with("file.filename=/a,,b/dev/disk"))
        );
    }

    #[test]
    fn every_descriptor_has_its_own_number() {
        let line = line(false);
        let mut numbers: Vec<&str> = line
            .iter()
            .filter_map(|argument| {
                let mut ways = ["fd=", "/fd/", "local.str="].into_iter();
                ways.find_map(|way| argument.split_once(way))
            })
            .map(|(_, number)| number)
            .collect();
        assert_eq!(numbers.len(), 5);
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, ["3", "4", "5", "6", "7"]);
    }

    #[test]
    fn machines_with_equal_hardware_have_one_shape() {
        let (one, other) = (command_line("dev", false), command_line("other", false));
        assert_ne!(one.arguments(), other.arguments());
        assert_eq!(one.shape(), other.shape());
        assert_ne!(one.shape(), command_line("dev", true).shape());
    }

    #[test]
    fn the_frequency_of_the_counter_is_no_part_of_the_shape() {
        let lines = [2000, 3000].map(|it| command_line_with_counter("dev", false, it));
        for (line, parameter) in lines
            .iter()
            .zip(["tsc_early_khz=2000000 ", "tsc_early_khz=3000000 "])
        {
            let mut arguments = line.arguments().iter();
            assert!(arguments.any(|it| it.starts_with(parameter)), "{line:?}");
        }
        assert_eq!(lines[0].shape(), lines[1].shape());
    }

    #[test]
    fn a_restored_machine_needs_no_kernel() {
        let mut line = command_line("dev", false);
        let shape = line.shape().to_owned();
        line.await_restore();
        let kernel = ["-kernel", "/k", "-initrd", "/i", "-append"].map(str::to_owned);
        assert!(!line.arguments().iter().any(|it| kernel.contains(it)));
        assert!(
            line.arguments()
                .ends_with(&["-incoming".to_owned(), "defer".to_owned()])
        );
        assert_eq!(line.shape(), shape);
    }

    #[test]
    fn virtualization_is_off_by_default() {
        let model = |model: &str| format!("{model}{SLOW_FEATURES}");
        assert!(line(false).contains(&model("max,svm=off,vmx=off")));
        assert!(line(true).contains(&model("max,svm=on")));
    }
}
