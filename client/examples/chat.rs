//! Chat: every line takes its place in the one order that everybody reads; joins take places too.
//!
//! `chat [--auth http://127.0.0.1:7000] [--name Ann] [--relay relay-1-0] [--join CODE]`

use dreamcatcher_client::{Client, ConnectOptions, Error, ErrorCode, Event, Mode};
use dreamcatcher_client::{SessionOptions, Target, block_on};

fn main() -> Result<(), Error> {
    block_on(async {
        let auth = argument("--auth").unwrap_or("http://127.0.0.1:7000".into());
        let name = argument("--name").unwrap_or("Ann".into());
        let mut options = ConnectOptions::guest(&auth, &name).await?;
        if let Some(relay) = argument("--relay") {
            options = options.prefer(&relay)?;
        }
        let client = Client::connect(options).await?;
        let mut session = match argument("--join") {
            Some(code) => client.join_code(&code).await?,
            None => client.create(SessionOptions::default()).await?,
        };
        let code = session.code().map_or("-".into(), |code| code.to_string());
        println!("* in session {code} through {}", client.node());

        let sender = session.sender();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if let Err(error) = sender.send(Mode::Ordered, Target::All, line) {
                    println!("* not sent: {error}");
                }
            }
            sender.leave()
        });
        while let Some(event) = session.recv().await {
            match event {
                #[rustfmt::skip]
                Event::Message { sender, payload, index, .. } => {
                    let (place, name) = (index.unwrap_or_default(), session.name_of(sender));
                    println!("{place} {name}: {}", String::from_utf8_lossy(&payload));
                }
                Event::PeerJoined(member) => println!("* {} joined", member.display_name),
                Event::PeerLeft { display_name, .. } => println!("* {display_name} left"),
                Event::PeerDropped(peer) => println!("* {} is away", session.name_of(peer)),
                Event::PeerRejoined(peer) => println!("* {} is back", session.name_of(peer)),
                Event::Ended { error, .. } if error.code() == ErrorCode::Ok => {
                    println!("* you left");
                }
                Event::Rejected { error, .. } | Event::Ended { error, .. } => println!("* {error}"),
                Event::Reconnecting | Event::Resumed => println!("* {event:?}"),
                Event::Committed { .. } | Event::ReliableGap { .. } => {}
            }
        }
        client.close().await;
        Ok(())
    })
}

fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}
