//! What is inside an image, gathered while it is read: the records in short, of bulk only the sums.

use image::container::Container;
use image::files::OpenFile;
use image::ids::{FileId, Pid, SharedId, SpaceId, TableId};
use image::memory::Space as AddressSpace;
use image::namespaces::mount::Mount;
use image::path::Name;
use image::tree::Tree;
use image::{Entry, Kind, Record, Space};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Everything that `--show` shows.
#[derive(Default, Serialize)]
pub struct Contents {
    /// The container's own record.
    pub container: Option<Container>,
    /// Who is whose child.
    pub tree: Option<Tree>,
    /// Live processes, room by room in short.
    pub processes: Vec<Process>,
    /// Address spaces.
    pub memory: Vec<Memory>,
    /// Memory objects that spaces share.
    pub shared: Vec<Shared>,
    /// Descriptor tables.
    pub tables: Vec<Table>,
    /// Open file descriptions that are no sockets, as their records have them.
    pub files: BTreeMap<u32, Value>,
    /// Sockets, as their records have them.
    pub sockets: BTreeMap<u32, Value>,
    /// File trees.
    pub trees: Vec<FileTree>,
    /// Raw entries `data/N`.
    pub blobs: Sum,
    #[serde(skip)]
    pages: BTreeMap<Space, u64>,
}

/// A process in short.
#[derive(Serialize)]
pub struct Process {
    /// Process id.
    pub pid: Pid,
    /// Name of its first thread.
    pub name: Name,
    /// How many threads.
    pub threads: usize,
    /// Effective user.
    pub uid: u32,
    /// Working directory and root, as their record has them.
    pub fs: Value,
}

/// An address space in short.
#[derive(Serialize)]
pub struct Memory {
    /// What `tree` calls it.
    pub id: SpaceId,
    /// How many areas.
    pub areas: usize,
    /// Bytes of all areas.
    pub mapped: u64,
    /// Bytes of pages in the image.
    pub pages: u64,
    /// The executable.
    pub executable: Option<Name>,
}

/// A memory object in short.
#[derive(Serialize)]
pub struct Shared {
    /// What areas call it.
    pub id: SharedId,
    /// Length in bytes.
    pub size: u64,
    /// Bytes of pages in the image.
    pub pages: u64,
}

/// A descriptor table.
#[derive(Serialize)]
pub struct Table {
    /// What `tree` calls it.
    pub id: TableId,
    /// Number and open file description of each descriptor.
    pub descriptors: Vec<(i32, FileId)>,
}

/// A file tree in short.
#[derive(Serialize)]
pub struct FileTree {
    /// Path of its root in the image.
    pub root: String,
    /// What is in it.
    pub sum: Sum,
}

/// How many, how much.
#[derive(Default, Serialize)]
pub struct Sum {
    /// Entries.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }
}

impl Contents {
    /// Takes one entry in. Records are read whether or not they will be shown: one that makes no sense
    /// makes a bad image.
    pub fn take(&mut self, mut entry: Entry<'_>) -> image::Result<()> {
        match entry.kind() {
            Kind::Record => {
                let record = Record::read(&mut entry)?;
                self.take_record(record).map_err(|what| entry.damaged(what))
            }
            Kind::Pages(pages) => {
                *self.pages.entry(pages.space).or_default() += entry.size();
                Ok(())
            }
            Kind::Blob => {
                self.blobs.add(entry.size());
                Ok(())
            }
            Kind::Member => {
                self.take_member(entry.path(), entry.size());
                Ok(())
            }
        }
    }

    fn take_member(&mut self, path: &str, size: u64) {
        let beneath = |tree: &FileTree| {
            path.strip_prefix(&tree.root)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        match self.trees.last_mut().filter(|tree| beneath(tree)) {
            Some(tree) => tree.sum.add(size),
            None => self.trees.push(FileTree {
                root: path.to_owned(),
                sum: Sum {
                    entries: 1,
                    bytes: size,
                },
            }),
        }
    }

    fn take_record(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Container(container) => self.container = Some(*container),
            Record::Frozen(_) | Record::Queues(_) | Record::SystemV(_) | Record::Groups(_) => {}
            Record::Tree(tree) => self.tree = Some(tree),
            Record::Memory(memory) => {
                self.shared = memory
                    .objects
                    .iter()
                    .map(|object| Shared {
                        id: object.id,
                        size: object.size,
                        pages: 0,
                    })
                    .collect();
            }
            Record::Files(files) => files
                .files
                .iter()
                .try_for_each(|file| self.take_file(file))?,
            Record::Family(family) => {
                family.space.check()?;
                self.memory.push(memory(&family.space));
            }
            Record::Process(process) => self.take_process(&process)?,
        }
        Ok(())
    }

    fn take_file(&mut self, file: &OpenFile) -> Result<(), String> {
        let value = serde_json::to_value(&file.file).map_err(|error| error.to_string())?;
        let sockets = matches!(file.file, image::files::File::Socket(_));
        let files = if sockets {
            &mut self.sockets
        } else {
            &mut self.files
        };
        match files.insert(file.id.0, value) {
            None => Ok(()),
            Some(_) => Err(format!("open file {} is there twice", file.id.0)),
        }
    }

    fn take_process(&mut self, process: &image::process::Process) -> Result<(), String> {
        if let Some(space) = &process.memory {
            space.check()?;
            self.memory.push(memory(space));
        }
        if let Some(table) = &process.table {
            self.tables.push(Table {
                id: table.id,
                descriptors: table
                    .descriptors
                    .iter()
                    .map(|fd| (fd.number, fd.file))
                    .collect(),
            });
        }
        let leader = process.threads.first().ok_or("it has no threads")?;
        self.processes.push(Process {
            pid: process.pid,
            name: leader.name.clone(),
            threads: process.threads.len(),
            uid: process.credentials.uid.effective,
            fs: serde_json::to_value(&process.fs).map_err(|error| error.to_string())?,
        });
        Ok(())
    }

    /// At the end: brings what came as pages to what came as records, in whichever order they came.
    pub fn finish(&mut self) {
        let bytes = |space| self.pages.get(&space).copied().unwrap_or(0);
        for memory in &mut self.memory {
            memory.pages = bytes(Space::Mm(memory.id));
        }
        for shared in &mut self.shared {
            shared.pages = bytes(Space::Shared(shared.id));
        }
    }

    /// The mounts of the container, where it has its own.
    pub fn mounts(&self) -> &[Mount] {
        let mounts = self
            .container
            .as_ref()
            .and_then(|own| own.namespaces.mount.own());
        mounts.map_or(&[], |mounts| &mounts.mounts)
    }
}

fn memory(space: &AddressSpace) -> Memory {
    let executable = space.fields.exe.and_then(|executable| match executable {
        image::memory::Executable::File { file } => space.files.get(file as usize),
        image::memory::Executable::Shared { .. } => None,
    });
    Memory {
        id: space.id,
        areas: space.areas.len(),
        mapped: space.areas.iter().map(image::memory::Area::len).sum(),
        pages: 0,
        executable: executable.map(|file| file.path.clone()),
    }
}
