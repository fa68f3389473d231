//! `dreamcatcher dev`: a mesh in one process, and players on it if they are asked for.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use dreamcatcher_auth::CertificateHash;
use dreamcatcher_relay::NodeInfo;
use serde::Serialize;

use crate::args::DevArgs;
use crate::bots;
use crate::command::verify_history::EXTENSION;
use crate::exit::Failure;
use crate::file;
use crate::mesh::{self, Mesh};
use crate::out;
use crate::stop::Stop;
use crate::table::counted;

/// Players of one session, if the user does not say.
const PLAYERS: usize = 4;
/// Positions that each player sends a second, if the user does not say.
const HZ: u32 = 20;

pub(crate) async fn dev(args: DevArgs) -> Result<(), Failure> {
    check(&args)?;
    let mut stop = Stop::on_signal()?;
    let mesh = Mesh::start(&mesh::Plan {
        relays: args.relays,
        regions: args.regions.clone(),
        max_batch_delay: Duration::from_micros(args.max_batch_delay_us),
    })
    .await?;
    let ran = run(&args, &mesh, &mut stop).await;
    stop.let_end(mesh.stop()).await;
    ran
}

/// What can be known to be wrong before anything starts.
fn check(args: &DevArgs) -> Result<(), Failure> {
    let wrong = |message: &str| Err(Failure::usage("dev", message));
    for (flag, is_given, lack) in [
        ("--report", args.report.is_some(), "to report"),
        ("--players", args.players.is_some(), "to seat"),
        ("--hz", args.hz.is_some(), "to move"),
        ("--history", args.history.is_some(), "to record"),
    ] {
        if is_given && args.bots == 0 {
            return wrong(&format!(
                "{flag} needs --bots: without players there is nothing {lack}"
            ));
        }
    }
    let (regions, relays) = (args.regions.len(), args.relays);
    if regions > relays {
        return wrong(&format!(
            "--regions names {regions} regions, but --relays is {relays}, and each region needs a \
             relay: name fewer, or give --relays {regions}"
        ));
    }
    for (flag, file) in [("--report", &args.report), ("--addresses", &args.addresses)] {
        if let Some(file) = file {
            file::can_replace(file).or_else(|e| {
                let shown = file.display();
                wrong(&format!("{flag} {shown} cannot be written: {e}"))
            })?;
        }
    }
    if let Some(directory) = &args.history {
        file::empty_directory(directory, EXTENSION).or_else(|e| {
            let shown = directory.display();
            wrong(&format!("--history {shown} cannot be used: {e}"))
        })?;
    }
    Ok(())
}

/// What happens while the mesh is up.
async fn run(args: &DevArgs, mesh: &Mesh, stop: &mut Stop) -> Result<(), Failure> {
    out::say(introduction(mesh))?;
    if let Some(file) = &args.addresses {
        write_addresses(file, mesh)?;
    }
    if args.bots > 0 {
        return play(args, mesh, stop).await;
    }
    match args.seconds {
        Some(seconds) => {
            let time = Duration::from_secs(seconds);
            // An error is the time that ran out: the usual end.
            let _ = tokio::time::timeout(time, stop.requested()).await;
        }
        None => {
            out::say_line("Ctrl-C stops it.")?;
            stop.requested().await;
        }
    }
    Ok(())
}

async fn play(args: &DevArgs, mesh: &Mesh, stop: &mut Stop) -> Result<(), Failure> {
    let plan = bots::Plan {
        bots: args.bots,
        players: args.players.unwrap_or(PLAYERS),
        hz: args.hz.unwrap_or(HZ),
        seconds: args.seconds,
        histories: args.history.clone(),
    };
    let do_it = if args.bots == 1 {
        "signs in and joins"
    } else {
        "sign in and join"
    };
    out::say_line(format_args!("{} {do_it}.", counted(args.bots, "player")))?;
    let Some(report) = bots::play(plan, mesh, stop).await? else {
        return Ok(());
    };
    // The file first: it is worth something even where nobody reads the summary.
    if let Some(file) = &args.report {
        file::replace(file, &report.json(), file::MODE_SHARED)?;
    }
    out::say_line(format_args!("\n{report}"))?;
    if report.kept {
        Ok(())
    } else {
        let message = "not everything went as promised; the summary says what";
        Err(Failure::Failed(message.to_owned()))
    }
}

/// Every address, and what to paste into two more terminals.
fn introduction(mesh: &Mesh) -> String {
    let (auth, nodes) = (mesh.auth_url(), mesh.nodes());
    let mut said = format!("auth       {auth}\n");
    for (node, admin) in nodes.iter().zip(mesh.admins()) {
        let NodeInfo {
            id,
            region,
            host,
            address,
            mesh_address,
            ..
        } = node;
        // Writing to a String cannot fail.
        let _ = writeln!(
            said,
            "{:<10} {address}   mesh {mesh_address}   admin http://{admin}   {region}, {host}",
            id.as_str()
        );
    }
    let first = nodes
        .first()
        .map(|node| node.id.as_str())
        .unwrap_or_default();
    let last = nodes.get(1).map_or(first, |node| node.id.as_str());
    let chat =
        format!("cargo run --release -p dreamcatcher-client --example chat -- --auth {auth}");
    let _ = write!(
        said,
        "\nTo talk across relays, paste these into two terminals; CODE is what the first one prints:\n\
         \x20 {chat} --relay {first} --name Ann\n\
         \x20 {chat} --relay {last} --name Bob --join CODE\n\n"
    );
    said
}

/// Every address, for programs.
fn write_addresses(file: &Path, mesh: &Mesh) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Addresses {
        auth: String,
        relays: Vec<RelayAddresses>,
        admin: Vec<SocketAddr>,
    }
    #[derive(Serialize)]
    struct RelayAddresses {
        node_id: String,
        region: String,
        host: String,
        address: SocketAddr,
        mesh_address: SocketAddr,
        admin: SocketAddr,
        certificate_sha256: Vec<CertificateHash>,
    }
    let relay = |(node, admin): (NodeInfo, SocketAddr)| RelayAddresses {
        node_id: node.id.to_string(),
        region: node.region,
        host: node.host,
        address: node.address,
        mesh_address: node.mesh_address,
        admin,
        certificate_sha256: node
            .certificate_sha256
            .into_iter()
            .map(CertificateHash)
            .collect(),
    };
    let addresses = Addresses {
        auth: mesh.auth_url(),
        relays: mesh
            .nodes()
            .into_iter()
            .zip(mesh.admins())
            .map(relay)
            .collect(),
        admin: mesh.admins(),
    };
    file::replace(file, &out::json(&addresses), file::MODE_SHARED)
}
