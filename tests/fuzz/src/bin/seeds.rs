//! Writes the seeds of each target as files: `seeds FOLDER` makes FOLDER/TARGET/NUMBER. Without a folder, names the targets.

use std::fs;
use std::io;
use std::path::Path;

fn main() -> io::Result<()> {
    let folder = std::env::args().nth(1);
    for target in weft_fuzz::TARGETS {
        let Some(folder) = &folder else {
            println!("{}", target.name);
            continue;
        };
        let folder = Path::new(folder).join(target.name);
        fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(folder.join(number.to_string()), seed)?;
        }
    }
    Ok(())
}
