//! What a host must have to run a container that ran on another.

use super::{Cpu, Header, Host};

impl Header {
    /// What a host lacks to run this container: nothing, or each thing in words with a remedy.
    ///
    /// Of the processor's features only those count that a program can use by itself: what the kernel
    /// uses, and names of bugs, do not. Where the host's XCR0 is not known it is 0 and not compared:
    /// the features say the same by name.
    pub fn lacks(&self, host: &Host, cpu: &Cpu) -> Vec<String> {
        let mut lacks = Vec::new();
        let (was, is) = (&self.host, host);
        if was.architecture != is.architecture {
            lacks.push(format!(
                "it ran on {} and this host is {} (restore it on a host of its architecture)",
                was.architecture, is.architecture
            ));
            return lacks;
        }
        if was.page_size != is.page_size {
            lacks.push(format!(
                "its pages have {} bytes and this kernel's have {} (restore it under a kernel of its page size)",
                was.page_size, is.page_size
            ));
        }
        let lacking = |feature: &&String| cpu.features.binary_search(feature).is_err();
        let missing: Vec<&str> = self
            .cpu
            .features
            .iter()
            .filter(|feature| in_programs(feature))
            .filter(lacking)
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            lacks.push(format!(
                "the processor here has no {} (start the program with GLIBC_TUNABLES=glibc.cpu.hwcaps that leaves \
                 them out, or restore it on a host that has them)",
                missing.join(", ")
            ));
        }
        let bits = self.cpu.xcr0 & !cpu.xcr0;
        if cpu.xcr0 != 0 && bits != 0 {
            lacks.push(format!(
                "the register state {bits:#x} of XCR0 does not exist here (restore it on a host that has it)"
            ));
        }
        lacks
    }
}

/// Names of /proc/cpuinfo that a program does not depend on: what the kernel alone uses, what only
/// makes the same faster, and workarounds for bugs. In order.
#[rustfmt::skip]
const KERNELS: &[&str] = &[
    "acpi", "amd_lbr_v2", "amd_ppin", "aperfmperf", "apic", "arat", "arch_capabilities",
    "arch_perfmon", "art", "avic", "bpext", "brs", "bts", "cat_l2", "cat_l3", "cdp_l2", "cdp_l3",
    "cmp_legacy", "constant_tsc", "cpb", "cpuid", "cpuid_fault", "cqm", "cqm_llc",
    "cqm_mbm_local", "cqm_mbm_total", "cqm_occup_llc", "cr8_legacy", "dca", "de", "debug_swap",
    "decodeassists", "ds_cpl", "dtes64", "dtherm", "dts", "efer_lmsle_cov", "ept", "ept_ad",
    "erms", "est", "extapic", "extd_apicid", "flexpriority", "flush_l1d", "flushbyasid", "fsrm",
    "hfi", "ht", "hw_pstate", "hwp", "hwp_act_window", "hwp_epp", "hwp_notify", "hwp_pkg_req",
    "hypervisor", "ibpb", "ibrs", "ibrs_enhanced", "ibs", "ibt", "ida", "intel_ppin", "intel_pt",
    "invpcid", "invpcid_single", "irperf", "lbrv", "mba", "mca", "mce", "md_clear", "monitor",
    "msr", "mtrr", "nonstop_tsc", "nopl", "npt", "nrip_save", "nx", "osvw", "overflow_recov",
    "pae", "pat", "pausefilter", "pbe", "pcid", "pconfig", "pdcm", "pdpe1gb", "pebs",
    "perfctr_core", "perfctr_llc", "perfctr_nb", "perfmon_v2", "pfthreshold", "pge", "pln", "pse",
    "pse36", "pts", "ptsc", "rapl", "rdt_a", "rep_good", "retpoline", "rrsba_ctrl", "rsb_ctxsw",
    "sdbg", "sev", "sev_es", "sev_snp", "sgx", "sgx_lc", "skinit", "smap", "smca", "sme", "smep",
    "smx", "split_lock_detect", "ss", "ssbd", "stibp", "stibp_always_on", "succor", "svm",
    "svm_lock", "tm", "tm2", "tme", "topoext", "tpr_shadow", "tsc_adjust", "tsc_deadline_timer",
    "tsc_known_freq", "tsc_reliable", "tsc_scale", "umip", "user_shstk", "v_spec_ctrl",
    "v_vmsave_vmload", "vgif", "vmcb_clean", "vme", "vmmcall", "vmx", "vnmi", "vpid", "wbnoinvd",
    "wdt", "x2apic", "x2avic", "xtopology", "xtpr",
];

/// Whether a feature of /proc/cpuinfo is one that programs use by themselves (x86: those that name
/// instructions open to user mode; elsewhere all that the kernel shows are).
fn in_programs(feature: &str) -> bool {
    KERNELS.binary_search(&feature).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_lacks_is_said_exactly() {
        let features = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut header = Header::new("test", "web", "1");
        header.host.architecture = "x86_64".into();
        header.host.page_size = 4096;
        header.cpu.features = features(&["avx2", "avx512f", "smep", "sse2"]);
        header.cpu.xcr0 = 0xe7;
        let (mut host, mut cpu) = (header.host.clone(), header.cpu.clone());
        assert!(header.lacks(&host, &cpu).is_empty());
        cpu.features = features(&["avx2", "sse2"]);
        cpu.xcr0 = 0;
        let lacks = header.lacks(&host, &cpu);
        assert_eq!(lacks.len(), 1);
        assert!(lacks[0].contains("has no avx512f ("), "{}", lacks[0]);
        cpu.xcr0 = 7;
        assert!(header.lacks(&host, &cpu)[1].contains("0xe0"));
        host.architecture = "aarch64".into();
        assert_eq!(
            header.lacks(&host, &cpu).len(),
            1,
            "nothing else makes sense then"
        );
    }

    #[test]
    fn the_features_of_kernels_are_in_order() {
        assert!(KERNELS.is_sorted());
        assert!(in_programs("avx"));
    }
}
