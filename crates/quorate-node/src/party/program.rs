//! The program of one run, with the guard in front of its links.

use std::{
    net::SocketAddrV4,
    path::{Path, PathBuf},
    sync::Arc,
};

use quorate_identity::Code;
use quorate_session::{
    MeshPlan,
    message::{Engine, Mpc},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{PartyConfig, SharedMesh};
use crate::{
    Fault,
    attach::{Attach, ChildFds, GuardEvent, Loopback, of_program},
    files::{Home, RunFolder, write_atomic},
    program::{
        ExecSpec, Told, check_user_args,
        supervisor::{Program, ProgramEvent, ProgramSpec, Supervisor},
    },
};

/// The guard: it listens before anybody is told that this party is ready.
pub(super) struct Guard {
    attach: Attach,
    links: Option<Links>,
    pub events: mpsc::Receiver<GuardEvent>,
    tasks: JoinSet<()>,
    mesh: SharedMesh,
    port: u16,
    me: u16,
    parties: u16,
}

/// How the program will reach the guard.
enum Links {
    /// By sockets that it inherits.
    Inherited(ChildFds),
    /// By ports on loopback.
    Loopback(Loopback),
}

impl Guard {
    /// Listens on the program's port inside the tunnel.
    pub fn listen(mesh: &SharedMesh, plan: &MeshPlan, engine: Engine) -> Result<Self, Fault> {
        let me = plan.me.0;
        let parties = u16::try_from(plan.peers.len() + 1).unwrap_or(u16::MAX);
        let no_links = |e: std::io::Error| {
            let why = format!("no links for the program could be made: {e}");
            Fault::new(Code::Port, why)
        };
        let (attach, inherited, events) = Attach::prepare(me, parties).map_err(no_links)?;
        let links = match engine {
            Engine::Mpyc => Links::Inherited(inherited),
            Engine::Exec => Links::Loopback(Loopback::open(me, parties).map_err(no_links)?),
        };
        let dial = match &links {
            Links::Inherited(_) => None,
            Links::Loopback(loopback) => Some(loopback.places().listen()),
        };
        let mut tasks = JoinSet::new();
        let listener = mesh.listener(plan.port);
        tasks.spawn(accept(listener, attach.clone(), dial));
        Ok(Self {
            attach,
            links: Some(links),
            events,
            tasks,
            mesh: Arc::clone(mesh),
            port: plan.port,
            me,
            parties,
        })
    }

    /// Starts carrying what the program sends to the parties above us.
    fn carry_outbound(&mut self) {
        for peer in self.me + 1..self.parties {
            let (attach, mesh, port) = (self.attach.clone(), Arc::clone(&self.mesh), self.port);
            self.tasks.spawn(async move {
                let connect = || {
                    let mesh = Arc::clone(&mesh);
                    async move { mesh.connect(peer, port).await }
                };
                // What went wrong comes as a guard event; the result adds nothing to it.
                let _ = attach.run_outbound(peer, connect).await;
            });
        }
    }

    /// Carries what the program sends on its loopback ports, once its process group is known.
    fn carry_loopback(&mut self, loopback: Loopback, group: u32) {
        for (peer, listener) in loopback.into_listeners() {
            let (attach, mesh, port) = (self.attach.clone(), Arc::clone(&self.mesh), self.port);
            self.tasks.spawn(async move {
                let Ok(program) = of_program(&listener, group).await else {
                    tracing::error!(peer, "a loopback listener failed");
                    return;
                };
                let connect = || {
                    let mesh = Arc::clone(&mesh);
                    async move { mesh.connect(peer, port).await }
                };
                let _ = attach.carry_out(peer, program, connect).await;
            });
        }
    }

    /// Starts the program on the links.
    pub async fn start_program(
        &mut self,
        config: &PartyConfig,
        folder: &RunFolder,
        threshold: u16,
    ) -> Result<(Supervisor, mpsc::Receiver<ProgramEvent>), Fault> {
        let links = self.links.take().ok_or_else(|| {
            Fault::new(Code::Internal, "the program was started twice on one mesh")
        })?;
        let copy = folder.path().join("program");
        Home::ensure(&copy)?;
        match links {
            Links::Inherited(links) => self.start_mpyc(config, &copy, threshold, links).await,
            Links::Loopback(loopback) => {
                let session = folder.path().join("session");
                Home::ensure(&session)?;
                let told = Told {
                    places: loopback.places(),
                    threshold,
                    session_dir: &session,
                };
                let spec = exec_spec(config, &copy, &told)?;
                let started = Supervisor::start_exec(spec).await.map_err(|e| {
                    Fault::new(Code::Engine, e.to_string())
                        .hint("the program's first file has to be executable here: a binary for this machine, or a script whose first line names its interpreter")
                })?;
                self.carry_loopback(loopback, started.0.pid());
                Ok(started)
            }
        }
    }

    async fn start_mpyc(
        &mut self,
        config: &PartyConfig,
        copy: &Path,
        threshold: u16,
        links: ChildFds,
    ) -> Result<(Supervisor, mpsc::Receiver<ProgramEvent>), Fault> {
        let args: Vec<String> = all_args(config).cloned().collect();
        check_user_args(&args).map_err(|e| Fault::new(e.code(), e.to_string()).hint(e.hint()))?;
        let python = config.python.clone().ok_or_else(|| {
            Fault::new(
                Code::Internal,
                "a program for MPyC without a Python to run it",
            )
        })?;
        let spec = ProgramSpec {
            python,
            program: Program::File(config.program.copy_to(copy)?),
            options: agreed_options(&config.invitation.subject.mpc),
            args,
            cwd: working_folder(config),
            me: self.me,
            parties: self.parties,
            threshold,
            links,
            confinement: config.execution.confinement,
            stdout: (config.stdout)(),
            stderr: (config.stderr)(),
        };
        if !config.check_own_program {
            self.attach.trust_own_program();
        }
        self.carry_outbound();
        Supervisor::start(spec)
            .await
            .map_err(|e| Fault::new(e.code(), e.to_string()))
    }

    /// Bytes that the program sent to all parties so far.
    pub fn bytes_sent(&self) -> u64 {
        self.attach.counters().iter().map(|count| count.tx).sum()
    }

    /// Ends all links and waits for their tasks.
    pub async fn stop(mut self) {
        self.attach.close();
        self.tasks.shutdown().await;
    }
}

/// Public arguments first, then the private ones.
fn all_args(config: &PartyConfig) -> impl Iterator<Item = &String> {
    let public = &config.invitation.subject.program.args;
    public.iter().chain(&config.private_args)
}

fn working_folder(config: &PartyConfig) -> PathBuf {
    let own = config.program.folder().unwrap_or(&config.working_folder);
    own.to_owned()
}

/// The program as it is started with the engine `exec`, its hosts file written.
fn exec_spec(config: &PartyConfig, copy: &Path, told: &Told<'_>) -> Result<ExecSpec, Fault> {
    write_atomic(&told.hosts_file(), told.peers().as_bytes())?;
    Ok(ExecSpec {
        file: config.program.copy_executable_to(copy)?,
        args: all_args(config).map(|arg| told.expand(arg)).collect(),
        environment: told.environment(),
        cwd: working_folder(config),
        confinement: config.execution.confinement,
        stdout: (config.stdout)(),
        stderr: (config.stderr)(),
    })
}

/// What the signed terms say about MPyC's protocol, as its options.
fn agreed_options(mpc: &Mpc) -> Vec<String> {
    let number = |option: &str, value: Option<u16>| value.map(|v| format!("{option}{v}"));
    let no_prss = (!mpc.prss).then(|| "--no-prss".to_owned());
    [
        no_prss,
        number("-L", mpc.bit_length),
        number("-K", mpc.sec_param),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `dial` is where the program listens, if it does not inherit its links.
async fn accept(
    mut listener: crate::netstack::Listener,
    attach: Attach,
    dial: Option<SocketAddrV4>,
) {
    let mut streams: JoinSet<()> = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        while streams.try_join_next().is_some() {}
        let attach = attach.clone();
        let _: AbortHandle = streams.spawn(async move {
            // Refusals and ends come as guard events.
            let _ = match dial {
                None => attach.run_inbound(peer, stream).await,
                Some(dial) => attach.carry_in(peer, stream, dial).await,
            };
        });
    }
}
