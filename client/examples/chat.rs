#![doc = include_str!("arguments/chat.txt")]

mod arguments;

use dreamcatcher_client::{Client, ConnectOptions, ErrorCode, Event, Mode, SessionOptions};
use dreamcatcher_client::{Target, auth, block_on};

use arguments::Arguments;

#[rustfmt::skip]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::read(include_str!("arguments/chat.txt"));
    let mut options = block_on(sign_in(&arguments))?;
    if let Some(relay) = arguments.value("--relay") { options = options.prefer(relay)?; }
    let client = block_on(Client::connect(options))?;
    let mut session = match arguments.value("--join") {
        Some(code) => block_on(client.join_code(code))?,
        None => block_on(client.create(SessionOptions::default()))?,
    };
    let code = session.code().map_or("-".into(), |code| code.to_string());
    println!("* in session {code} through {}", client.node());
    let sender = session.sender();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if let Err(e) = sender.send(Mode::Ordered, Target::All, line) { println!("* not sent: {e}"); }
        }
        sender.leave()
    });
    while let Some(event) = block_on(session.recv()) {
        match event {
            Event::Message { sender, payload, index, .. } => println!("{} {}: {}",
                index.unwrap_or_default(), session.name_of(sender), String::from_utf8_lossy(&payload)),
            Event::PeerJoined(member) => println!("* {} joined", member.display_name),
            Event::PeerLeft { display_name, .. } => println!("* {display_name} left"),
            Event::PeerDropped(peer) => println!("* {} is away", session.name_of(peer)),
            Event::PeerRejoined(peer) => println!("* {} is back", session.name_of(peer)),
            Event::Ended { error, .. } if error.code() == ErrorCode::Ok => println!("* you left"),
            Event::Rejected { error, .. } | Event::Ended { error, .. } => println!("* {error}"),
            Event::Reconnecting | Event::Resumed => println!("* {event:?}"),
            Event::Committed { .. } | Event::ReliableGap { .. } => {}
        }
    }
    block_on(client.close());
    Ok(())
}

#[rustfmt::skip]
async fn sign_in(arguments: &Arguments) -> Result<ConnectOptions, Box<dyn std::error::Error>> {
    let auth = arguments.value("--auth").unwrap_or("http://127.0.0.1:7000");
    let name = arguments.value("--name").or(arguments.value("--user")).unwrap_or("Ann");
    let (Some(user), Some(file)) = (arguments.value("--user"), arguments.value("--password-file"))
        else { return Ok(ConnectOptions::guest(auth, name).await?) };
    let password = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let account = auth::Registration::new(user, password.trim_end()).display_name(name);
    if arguments.value("--register").is_some() { auth::register(auth, account).await?; }
    Ok(ConnectOptions::account(auth, user, password.trim_end()).await?)
}
