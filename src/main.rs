//! `wire`: text → topology → wanted state; kernel → seen state; their difference is the plan, and every command is a part of
//! that one line.

mod apply;
#[cfg(test)]
#[expect(dead_code, reason = "the truth tables use the rest")]
#[path = "../tests/netns/cases.rs"]
mod cases;
mod cli;
mod confirm;
mod desired;
mod error;
mod file;
mod foreign;
mod hook;
mod hub;
mod kernel;
mod lab;
mod log;
#[cfg(test)]
#[expect(dead_code, reason = "the truth tables use the rest")]
#[path = "../tests/netns/naive.rs"]
mod naive;
mod near;
mod nft;
mod parse;
mod peer;
mod plan;
mod prove;
mod render;
mod report;
mod rules;
mod service;
mod session;
mod sets;
mod state;
mod suggest;
mod target;
mod topology;
mod undo;
mod voice;
mod watch;
mod why;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::{Cli, Command, PeerVerb, SetVerb};
use error::{Error, Exit, Fault};
use kernel::power::{self, Power};
use kernel::run::Lock;
use rules::{Ranges, Rules};
use sets::{Sets, ranges};
use state::State;
use target::Scope;
use topology::{Hub, Name, Topology};
use voice::{Voice, count};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let voice = Voice::of(&cli);
    let code = run(&cli, &voice).unwrap_or_else(|error| {
        voice.error(&error);
        error.exit as u8
    });
    ExitCode::from(voice.code(code))
}

/// What a command needs of root's power once the topology file is open.
fn power_of(command: &Command) -> Power {
    match command {
        Command::Check | Command::Why { .. } | Command::Confirm | Command::Completions { .. } | Command::Man => {
            Power::Nothing
        }
        Command::Render { .. } | Command::Set { verb: SetVerb::List { .. } } => Power::Read,
        Command::Peer { verb: PeerVerb::List } => Power::Nothing,
        Command::Number | Command::Peer { .. } => Power::Replace,
        Command::Plan(_) | Command::Up { .. } | Command::Down(_) | Command::Audit { .. } => Power::Wire,
        Command::Log(_) | Command::Suggest | Command::Set { .. } | Command::Watch { .. } | Command::Hook { .. } => {
            Power::Wire
        }
        Command::Prove(_) => Power::Prove,
        Command::Hub { .. } => Power::Hub,
        Command::Lab { .. } | Command::Service { .. } => Power::Everything,
    }
}

/// Does what the command line says; the exit code comes back.
fn run(cli: &Cli, voice: &Voice) -> Result<u8, Error> {
    let power = power_of(&cli.command);
    match &cli.command {
        Command::Completions { .. } | Command::Man | Command::Confirm => {
            power::keep(power)?;
            return without_file(&cli.command, voice);
        }
        // Most containers are no node's, and must not wait for the file to be parsed.
        Command::Hook { verb } => {
            power::keep(power)?;
            return Ok(hook::run(voice, cli, verb)? as u8);
        }
        Command::Service { verb } => return service::run(voice, cli, verb),
        _ => {}
    }
    let file = cli.topology();
    let path = file.display().to_string();
    let text = file::read(&file, cli.trust_owner.as_deref())?;
    power::keep(power)?;
    let parsed = match &cli.command {
        Command::Number => return number(&file, voice, &text),
        _ => power::without(|| parse::topology(&text))?,
    };
    let topology = match parsed {
        Ok(topology) => topology,
        Err(faults) => return Ok(voice.faults(&path, &text, &faults) as u8),
    };
    if let Command::Watch { no_hubs } = cli.command {
        let source = watch::Source { file, trusted: cli.trust_owner.as_deref(), hubs: !no_hubs };
        return Ok(watch::run(voice, &source, text, topology)? as u8);
    }
    let scope = |targets: &cli::Targets| Scope::of(&topology, &targets.targets);
    let exit = match &cli.command {
        Command::Check => check(voice, &path, &text, &topology),
        Command::Plan(targets) => plan(voice, &topology, &scope(targets)?)?,
        Command::Up { targets, strict, confirm } => {
            let term = confirm.as_deref().map(confirm::term).transpose()?;
            up(voice, &topology, &scope(targets)?, *strict, term)?
        }
        Command::Down(targets) => down(voice, &topology, &scope(targets)?)?,
        Command::Audit { targets, published } => audit(voice, &path, &topology, &scope(targets)?, *published)?,
        Command::Suggest => suggest(voice, &path, &topology)?,
        Command::Prove(targets) => prove(voice, &topology, &scope(targets)?)?,
        Command::Why { from, to } => why(voice, &path, &topology, from, to)?,
        Command::Log(targets) => log::run(voice, &path, &topology, &scope(targets)?)?,
        Command::Render { what: cli::Render::Nft { node } } => render_nft(voice, &topology, node.as_deref())?,
        Command::Render { what: cli::Render::Hosts { node } } => render_hosts(voice, &topology, node)?,
        Command::Render { what: cli::Render::Wireguard { peer, qr } } => peer::render(voice, &topology, peer, *qr)?,
        Command::Render { what: cli::Render::Caddy { hub } } => render_caddy(voice, &topology, hub.as_deref())?,
        Command::Peer { verb } => {
            let source = peer::Source { file: &file, trusted: cli.trust_owner.as_deref() };
            peer::run(voice, &source, &topology, verb)?
        }
        Command::Set { verb } => {
            let push = |changed: &Sets, lock: &Lock| apply::elements(voice, &topology, changed, lock);
            sets::run(voice, &path, &topology, verb, push)?
        }
        Command::Hub { name } => hub::run(voice, &topology, name)?,
        Command::Lab { node, command } => return lab::run(voice, topology, node, command),
        Command::Watch { .. } | Command::Number | Command::Confirm | Command::Hook { .. } | Command::Service { .. } => {
            Exit::Done
        }
        Command::Completions { .. } | Command::Man => Exit::Done,
    };
    Ok(exit as u8)
}

fn without_file(command: &Command, voice: &Voice) -> Result<u8, Error> {
    let mut text = Vec::new();
    match command {
        Command::Completions { shell } => clap_complete::generate(*shell, &mut Cli::command(), "wire", &mut text),
        Command::Man => {
            let rendered = clap_mangen::Man::new(Cli::command()).render(&mut text);
            rendered.map_err(|error| Error::failed(format!("cannot make the manual page: {error}")))?;
        }
        // What waits is kept whatever the file says by now.
        _ => return Ok(confirm::run(voice)? as u8),
    }
    voice.print(&String::from_utf8_lossy(&text));
    Ok(Exit::Done as u8)
}

fn number(file: &Path, voice: &Voice, text: &str) -> Result<u8, Error> {
    match power::without(|| parse::number(text))? {
        Ok((numbered, filled)) => {
            if !filled.is_empty() {
                file::replace(file, &numbered)?;
            }
            if voice.json {
                let wires = filled.iter().map(|(wire, subnet)| serde_json::json!({ "wire": wire, "subnet": subnet }));
                voice.print_json(&serde_json::json!({ "numbered": wires.collect::<serde_json::Value>() }));
            } else {
                voice.print(&filled.iter().map(|(wire, subnet)| format!("{wire} {subnet}\n")).collect::<String>());
                voice.say(&format!("{} numbered", count(filled.len(), "wire")));
            }
            Ok(Exit::Done as u8)
        }
        Err(faults) => Ok(voice.faults(&file.display().to_string(), text, &faults) as u8),
    }
}

fn check(voice: &Voice, path: &str, text: &str, topology: &Topology) -> Exit {
    let warnings: Vec<Fault> = parse::warnings(topology);
    for warning in &warnings {
        voice.remark(&report::fault("warning", warning, path, text, voice.err));
    }
    if voice.json {
        voice.print_json(&report::check_json(Some(topology), &[], &warnings));
    } else {
        let (wires, nodes) = (count(topology.wires.len(), "wire"), count(topology.nodes.len(), "node"));
        if voice.verbose {
            voice.print(
                &why::sentences(topology).iter().map(|(line, text)| format!("{line}: {text}\n")).collect::<String>(),
            );
        }
        voice.say(&format!("{path}: {wires}, {nodes}, {}: valid", count(topology.modules.len(), "module")));
    }
    Exit::Done
}

fn why(voice: &Voice, path: &str, topology: &Topology, from: &str, to: &str) -> Result<Exit, Error> {
    let question = why::question(from, to)?;
    let answer = why::answer(topology, question.from, question.to, question.service.as_ref())?;
    if voice.json {
        voice.print_json(&serde_json::json!(answer));
    } else {
        voice.print(&report::answer(&answer, path, voice.out));
        if let Some(hint) = &answer.hint {
            voice.say(&format!("hint: {hint}"));
        }
    }
    Ok(if answer.allowed { Exit::Done } else { Exit::Differs })
}

fn render_nft(voice: &Voice, topology: &Topology, node: Option<&str>) -> Result<Exit, Error> {
    let nodes = match node {
        Some(node) => Scope::of(topology, &[format!("node:{node}")])?.nodes,
        None => desired::namespaces(topology),
    };
    let ranges = ranges(&sets::look(voice, topology)?);
    let tables = render::nft(&Rules::of(topology, &ranges), &nodes);
    if voice.json {
        let tables = tables.iter().map(|(node, text)| (node.to_string(), text.as_str().into()));
        voice.print_json(&serde_json::json!({ "nft": tables.collect::<serde_json::Map<_, _>>() }));
    } else {
        let headed = tables.iter().map(|(node, text)| format!("# {node}\n{text}"));
        voice.print(&headed.collect::<Vec<String>>().join("\n"));
    }
    if tables.is_empty() {
        voice.say("the file has nothing to say about what passes there");
    }
    Ok(Exit::Done)
}

fn render_caddy(voice: &Voice, topology: &Topology, hub: Option<&str>) -> Result<Exit, Error> {
    let hubs = match hub {
        Some(name) => vec![hub::find(topology, name)?],
        None => topology.hubs.values().collect(),
    };
    let hubs = hubs.into_iter().filter(|hub| hub.serves_web());
    let files: Vec<_> =
        hubs.map(|hub| (&hub.name, render::caddy::file(hub.name.as_str(), &hub::proxy(topology, hub)))).collect();
    if voice.json {
        let files = files.iter().map(|(hub, text)| (hub.to_string(), text.as_str().into()));
        voice.print_json(&serde_json::json!({ "caddy": files.collect::<serde_json::Map<_, _>>() }));
    } else {
        voice.print(&files.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n"));
    }
    if files.is_empty() {
        voice.say("no site or redirect is there to serve");
    }
    Ok(Exit::Done)
}

fn render_hosts(voice: &Voice, topology: &Topology, node: &str) -> Result<Exit, Error> {
    let nodes = Scope::of(topology, &[format!("node:{node}")])?.nodes;
    let lines: Vec<render::hosts::Line> = nodes.iter().flat_map(|node| render::hosts::hosts(topology, node)).collect();
    if voice.json {
        let lines = lines.iter().map(|line| serde_json::json!({ "address": line.address, "names": line.names }));
        voice.print_json(&serde_json::json!({ "hosts": lines.collect::<serde_json::Value>() }));
    } else {
        let text = lines.iter().map(|line| format!("{} {}\n", line.address, line.names.join(" ")));
        voice.print(&text.collect::<String>());
    }
    if lines.is_empty() {
        voice.say(&format!("no wire ends in `{node}`"));
    }
    Ok(Exit::Done)
}

/// What is wanted, less what is.
fn plan(voice: &Voice, topology: &Topology, scope: &Scope) -> Result<Exit, Error> {
    let ranges = ranges(&sets::look(voice, topology)?);
    let rules = Rules::of(topology, &ranges);
    let seen = apply::look(&rules, scope)?;
    let wanted = desired::up(topology, &rules, scope, &seen);
    let plan = plan::diff(&wanted, &seen);
    voice.plan(&plan);
    warn_of_cut(voice, topology, &seen, &wanted, false);
    Ok(if plan.is_empty() { Exit::Done } else { Exit::Differs })
}

/// Says beforehand that a change would lock out who asks for it. `by_itself`: it is undone by itself.
fn warn_of_cut(voice: &Voice, topology: &Topology, seen: &State, wanted: &State, by_itself: bool) {
    let session = kernel::session::ssh();
    if let Some(warning) = session.and_then(|session| session.warning(topology, seen, wanted, by_itself)) {
        voice.warn(&warning);
    }
}

fn audit(voice: &Voice, path: &str, topology: &Topology, scope: &Scope, published: bool) -> Result<Exit, Error> {
    let ranges = ranges(&sets::look(voice, topology)?);
    let rules = Rules::of(topology, &ranges);
    let seen = apply::look(&rules, scope)?;
    let plan = plan::diff(&desired::up(topology, &rules, scope, &seen), &seen);
    let mut strangers = plan::strangers(topology, &seen);
    strangers.extend(foreign::findings(&rules, scope, &seen));
    let mut audit = report::audit(topology, scope, &seen, &plan, strangers);
    audit.published = published.then(|| why::published(topology));
    audit.hubs = hub::heard::hubs(voice, topology, scope, &seen);
    voice.audit(&audit, path);
    Ok(audit.exit())
}

/// What wires in audit mode have seen, as flows to write.
fn suggest(voice: &Voice, path: &str, topology: &Topology) -> Result<Exit, Error> {
    let ranges = ranges(&sets::look(voice, topology)?);
    let seen = apply::look(&Rules::of(topology, &ranges), &Scope::everything(topology))?;
    let mut recorded = Vec::new();
    for (node, namespace) in &seen.namespaces {
        for (wire, keys) in &namespace.recorded {
            let tried = keys.iter().filter_map(|key| suggest::Tried::of(key));
            recorded.extend(tried.map(|tried| (node.clone(), wire.clone(), tried)));
        }
    }
    let suggested = suggest::suggest(topology, &recorded);
    if voice.json {
        voice.print_json(&serde_json::json!(suggested));
        return Ok(Exit::Done);
    }
    voice.print(&suggested.text(path));
    suggested.remarks().iter().for_each(|remark| voice.say(remark));
    let watched = topology.wires.iter().any(|wire| wire.mode == topology::Mode::Audit);
    match (watched, recorded.is_empty()) {
        (false, _) => voice.say("no wire is in audit mode: write `mode = \"audit\"` on one and run `wire up`"),
        (true, true) => voice.say("nothing was tried yet that the file does not allow"),
        (true, false) => {}
    }
    Ok(Exit::Done)
}

fn prove(voice: &Voice, topology: &Topology, scope: &Scope) -> Result<Exit, Error> {
    let sets = sets::look(voice, topology)?;
    let ranges = ranges(&sets);
    let proof = apply::prove(&Rules::of(topology, &ranges), scope, &sets::networks(&sets), None)?;
    voice.proof(&proof);
    match scope.named.iter().find(|name| proof.absent.contains_key(*name)) {
        Some(node) => Err(not_running(node)),
        None => Ok(proof.exit()),
    }
}

fn not_running(node: &Name) -> Error {
    Error::failed(format!("`{node}` was asked for and does not run")).hint("start it, then run this again")
}

fn up(voice: &Voice, topology: &Topology, scope: &Scope, strict: bool, term: Option<u64>) -> Result<Exit, Error> {
    let answers = sets::ask(topology.sets.values());
    let lock = apply::lock(voice)?;
    if term.is_some() {
        confirm::none_pending(&lock)?;
    }
    let ranges = ranges(&sets::renewed(voice, topology, &answers, &lock)?);
    let rules = Rules::of(topology, &ranges);
    let want = |seen: &State| desired::up(topology, &rules, scope, seen);
    let mut pending = None;
    let changed = apply::change_after(voice, &rules, scope, &lock, &want, &mut |seen, wanted, changes| {
        warn_of_cut(voice, topology, seen, wanted, term.is_some());
        if let Some(term) = term {
            pending = Some(confirm::arm(voice, &rules, scope, (seen, changes), term, &lock)?);
        }
        Ok(())
    });
    let undone_in = pending.map(|pending| pending.seconds());
    let (mut report, seen) = match changed {
        Ok(changed) => changed,
        Err(error) => {
            voice.undone_in(undone_in);
            return Err(error);
        }
    };
    report.undone_in = undone_in;
    report.findings.extend(foreign::findings(&rules, scope, &seen));
    voice.report(&report, "up");
    hubs(voice, topology, scope, term.is_some(), &seen, &lock);
    match term {
        None => confirm::remind(voice, &lock),
        Some(_) if undone_in.is_none() => voice.say("nothing was changed, so nothing waits for confirmation"),
        Some(_) => {}
    }
    let named = |name: &&Name| scope.named.contains(*name);
    let stopped = seen.waiting.keys().find(named).or(report.waiting.iter().map(|waiting| &waiting.node).find(named));
    if let Some(node) = stopped {
        return Err(not_running(node));
    }
    if strict && let Some(waiting) = report.waiting.first() {
        let sentence = format!("wire `{}` waits for `{}`, and --strict takes no waiting", waiting.wire, waiting.node);
        return Err(Error::failed(sentence).hint("start what does not run, then run this again"));
    }
    Ok(if report.is_success() { Exit::Done } else { Exit::Failed })
}

/// Tells the hubs what they are to serve, and who watches over them which do not run.
fn hubs(voice: &Voice, topology: &Topology, scope: &Scope, waits: bool, seen: &State, lock: &Lock) {
    if waits {
        if topology.hubs.values().any(|hub| hub.is_run() && scope.has_node(&hub.name)) {
            voice.say("hubs serve what they did before until `wire up` is run without --confirm");
        }
        return;
    }
    let struck = |name: &String| Name::new(name).is_some_and(|name| !topology.hubs.get(&name).is_some_and(Hub::is_run));
    for hub in kernel::hub::served().iter().filter(|name| scope.everything && struck(name)) {
        let how = format!("stop the service `wire-hub@{hub}`, or end the process with SIGTERM");
        voice.warn(&Error::failed(format!("hub `{hub}` still runs, and the file has it no more")).hint(how));
    }
    for hub in hub::tell(voice, topology, scope, seen, lock) {
        let how = format!("start the service `wire-hub@{hub}`, or `wire hub {hub}`");
        voice.warn(&Error::failed(format!("hub `{hub}` should run and does not")).hint(how));
    }
}

fn down(voice: &Voice, topology: &Topology, scope: &Scope) -> Result<Exit, Error> {
    let ranges = Ranges::new();
    let rules = Rules::of(topology, &ranges);
    let lock = apply::lock(voice)?;
    let (report, _) = apply::change(voice, &rules, scope, &lock, |seen| desired::down(scope, seen))?;
    voice.report(&report, "down");
    if kernel::run::RunDirectory::look()?.is_some_and(|run| run.is_watched()) {
        let warning = Error::failed("`wire watch` runs and makes again what the file has");
        voice.warn(&warning.hint("stop it first (the service `wire-watch`), or strike it from the file"));
    }
    confirm::remind(voice, &lock);
    Ok(if report.is_success() { Exit::Done } else { Exit::Failed })
}
