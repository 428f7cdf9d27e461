/** A SLURM of this test's own: munged, slurmctld and slurmd on free ports, everything in one folder, as the current user. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname, userInfo } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "../servers.ts";

const PATH = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/usr/local/sbin"].join(delimiter);

type Daemon = "munged" | "slurmctld" | "slurmd";

export interface Cluster {
  /** for sbatch, squeue and scontrol */
  env: NodeJS.ProcessEnv;
  start(daemon: Daemon): void;
  /** SIGKILL, and waits for its end */
  kill(daemon: Daemon): Promise<void>;
  /** stdout of a SLURM command; "" when it fails */
  ask(command: string, ...args: string[]): string;
  stop(): Promise<void>;
}

/** @param dir empty; short enough for the path of a socket in it */
export async function startCluster(dir: string): Promise<Cluster> {
  for (const name of ["slurmctld", "slurmd", "munged", "sbatch"]) {
    const found = PATH.split(delimiter).some((folder) => existsSync(join(folder, name)));
    if (!found)
      throw new Error(`${name} is missing: npm run setup installs it as root, or apt-get install slurm-wlm munge`);
  }
  const [controller, node] = await Promise.all([freePort(), freePort()]);
  for (const name of ["state", "spool", "munge"]) mkdirSync(join(dir, name), { recursive: true });
  chmodSync(join(dir, "munge"), 0o755);
  writeFileSync(join(dir, "munge", "key"), randomBytes(64), { mode: 0o400 });
  const host = hostname().split(".")[0];
  const user = userInfo().username;
  const socket = join(dir, "munge", "socket");
  writeFileSync(
    join(dir, "slurm.conf"),
    `ClusterName=slimvit
SlurmctldHost=${host}(127.0.0.1)
SlurmUser=${user}
SlurmdUser=${user}
SlurmctldPort=${controller}
SlurmdPort=${node}
AuthType=auth/munge
CredType=cred/munge
# A requeued task waits as long as a credential lives.
AuthInfo=socket=${socket},cred_expire=5
StateSaveLocation=${join(dir, "state")}
SlurmdSpoolDir=${join(dir, "spool")}
SlurmctldPidFile=${join(dir, "slurmctld.pid")}
SlurmdPidFile=${join(dir, "slurmd.pid")}
SlurmctldLogFile=${join(dir, "slurmctld.log")}
SlurmdLogFile=${join(dir, "slurmd.log")}
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MessageTimeout=20
BatchStartTimeout=2
SchedulerParameters=batch_sched_delay=1,sched_interval=2
MpiDefault=none
NodeName=${host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=${host} Default=YES MaxTime=INFINITE State=UP
`,
  );

  const env = { ...process.env, PATH, SLURM_CONF: join(dir, "slurm.conf") };
  const munge = ["key-file=key", "socket=socket", "pid-file=pid", "log-file=log", "seed-file=seed"];
  const args: Record<Daemon, string[]> = {
    munged: [
      "--foreground",
      "--force",
      "--num-threads=2",
      ...munge.map((option) => `--${option.replace("=", `=${join(dir, "munge")}/`)}`),
    ],
    slurmctld: ["-D", "-f", env.SLURM_CONF],
    slurmd: ["-D", "-f", env.SLURM_CONF],
  };
  const daemons = new Map<Daemon, ChildProcess>();
  const ended = (child: ChildProcess) =>
    child.exitCode !== null || child.signalCode !== null
      ? Promise.resolve()
      : new Promise<void>((resolve) => void child.once("exit", () => resolve()));
  const cluster: Cluster = {
    env,
    start: (daemon) => void daemons.set(daemon, spawn(daemon, args[daemon], { env, stdio: "ignore" })),
    async kill(daemon) {
      const child = daemons.get(daemon)!;
      child.kill("SIGKILL");
      await ended(child);
    },
    ask: (command, ...words) => spawnSync(command, words, { env, encoding: "utf8" }).stdout ?? "",
    async stop() {
      this.ask("scancel", "--user", user);
      for (const daemon of ["slurmd", "slurmctld", "munged"] as Daemon[]) {
        const child = daemons.get(daemon);
        child?.kill("SIGTERM");
        if (child) await Promise.race([ended(child), sleep(5000)]);
        if (child) child.kill("SIGKILL");
      }
    },
  };
  cluster.start("munged");
  await until("munged's socket", () => existsSync(socket));
  cluster.start("slurmctld");
  cluster.start("slurmd");
  try {
    await until("an idle node", () => cluster.ask("sinfo", "-h", "-o", "%T").trim() === "idle");
  } catch (error) {
    const log = (name: string) =>
      existsSync(join(dir, name)) ? readFileSync(join(dir, name), "utf8").slice(-1500) : "";
    await cluster.stop();
    throw new Error(`${error}\n${log("slurmctld.log")}\n${log("slurmd.log")}`);
  }
  return cluster;
}

/** Against hangs: a busy machine is slow. */
const LIMIT_MS = 300_000;

export async function until(what: string, holds: () => boolean): Promise<void> {
  for (const start = Date.now(); !holds(); await sleep(100))
    if (Date.now() - start > LIMIT_MS) throw new Error(`waited ${LIMIT_MS / 1000} s for ${what}`);
}
