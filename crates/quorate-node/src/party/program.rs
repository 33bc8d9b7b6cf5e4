//! The program of one run, with the guard in front of its links.

use std::sync::Arc;

use quorate_session::{MeshPlan, message::Mpc};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use super::{PartyConfig, SharedMesh};
use crate::{
    Fault,
    attach::{Attach, ChildFds, GuardEvent},
    files::{Home, RunFolder},
    program::{
        check_user_args,
        supervisor::{Program, ProgramEvent, ProgramSpec, Supervisor},
    },
};

/// The guard: it listens before anybody is told that this party is ready.
pub(super) struct Guard {
    attach: Attach,
    links: Option<ChildFds>,
    pub events: mpsc::Receiver<GuardEvent>,
    tasks: JoinSet<()>,
    mesh: SharedMesh,
    port: u16,
    me: u16,
    parties: u16,
}

impl Guard {
    /// Listens on the program's port inside the tunnel.
    pub fn listen(mesh: &SharedMesh, plan: &MeshPlan) -> Result<Self, Fault> {
        let me = plan.me.0;
        let parties = u16::try_from(plan.peers.len() + 1).unwrap_or(u16::MAX);
        let (attach, links, events) = Attach::prepare(me, parties).map_err(|e| {
            Fault::new(
                quorate_identity::Code::Port,
                format!("no links for the program could be made: {e}"),
            )
        })?;
        let mut tasks = JoinSet::new();
        let listener = mesh.listener(plan.port);
        tasks.spawn(accept(listener, attach.clone()));
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

    /// Starts the program on the links.
    pub async fn start_program(
        &mut self,
        config: &PartyConfig,
        folder: &RunFolder,
        threshold: u16,
    ) -> Result<(Supervisor, mpsc::Receiver<ProgramEvent>), Fault> {
        let internal = |why: &str| Fault::new(quorate_identity::Code::Internal, why);
        let links = self
            .links
            .take()
            .ok_or_else(|| internal("the program was started twice on one mesh"))?;
        let args: Vec<String> = public_args(config)
            .chain(&config.private_args)
            .cloned()
            .collect();
        check_user_args(&args).map_err(|e| Fault::new(e.code(), e.to_string()).hint(e.hint()))?;
        let copy = folder.path().join("program");
        Home::ensure(&copy)?;
        let entry = config.program.copy_to(&copy)?;
        let spec = ProgramSpec {
            python: config.python.clone(),
            program: Program::File(entry),
            options: agreed_options(&config.invitation.subject.mpc),
            args,
            cwd: config
                .program
                .folder()
                .unwrap_or(&config.working_folder)
                .to_owned(),
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

    /// Ends all links and waits for their tasks.
    pub async fn stop(mut self) {
        self.attach.close();
        self.tasks.shutdown().await;
    }
}

fn public_args(config: &PartyConfig) -> std::slice::Iter<'_, String> {
    config.invitation.subject.program.args.iter()
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

async fn accept(mut listener: crate::netstack::Listener, attach: Attach) {
    let mut streams: JoinSet<()> = JoinSet::new();
    while let Ok((stream, peer)) = listener.accept().await {
        while streams.try_join_next().is_some() {}
        let attach = attach.clone();
        let _: AbortHandle = streams.spawn(async move {
            // Refusals and ends come as guard events.
            let _ = attach.run_inbound(peer, stream).await;
        });
    }
}
