/** artifacts: what the CLI does with eBPF artifacts on this machine: templates, packing, signing, verifying, looking into objects and at
 *  what is pinned in the kernel. Called lazily by the topics, as a bundle of its own (build.ts): it brings zod, the archive and the loader,
 *  which no other command pays for. Invariant: what it writes is whole or not there, and a secret never leaves it but as a signature.
 *  Must not: talk to an Aegis server (the topics do) or print. */
export { artifactFacts } from './artifact-facts.ts';
export { readUpload, savePulled } from './exchange.ts';
export { initFolder } from './init.ts';
export { inspectFile } from './inspect.ts';
export { inspectionText } from './inspection-text.ts';
export { type KernelSight, kernelSight } from './kernel-sight.ts';
export { packFolder } from './pack.ts';
export { signWithKey, signWithVault } from './sign.ts';
export { readPublicKey, verifyBundleFile, verifyBytes } from './verify.ts';
