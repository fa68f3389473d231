//! `dreamcatcher keygen`: a new cluster key.

use std::io;

use dreamcatcher_relay::identity::ClusterKey;

use crate::args::KeygenArgs;
use crate::exit::Failure;
use crate::file;
use crate::out;

pub(crate) fn keygen(args: &KeygenArgs) -> Result<(), Failure> {
    let shown = args.out.display();
    let contents = format!("{}\n", ClusterKey::generate().to_hex());
    if args.force {
        file::replace(&args.out, &contents, file::MODE_SECRET)?;
    } else {
        file::create(&args.out, &contents, file::MODE_SECRET).map_err(|e| {
            if e.kind() == io::ErrorKind::AlreadyExists {
                Failure::Failed(format!(
                    "{shown} is there already, and relays may be using it; \
                     choose another file, or overwrite it with --force"
                ))
            } else {
                file::cannot_write(&args.out, &e)
            }
        })?;
    }
    out::say_line(format_args!(
        "A new cluster key is in {shown}. Give every relay of the mesh the same file."
    ))
}
