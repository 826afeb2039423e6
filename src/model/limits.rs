//! Every bound of the format and of the program, in one place, each with its unit and its reason.
//!
//! Readers refuse what lies above; writers assert that they stay below. The numbers are part of the format
//! (`src/format/FORMAT.md`, section "Limits").

/// One kibibyte.
pub const KIB: u64 = 1024;
/// One mebibyte.
pub const MIB: u64 = 1024 * KIB;
/// One gibibyte.
pub const GIB: u64 = 1024 * MIB;

/// The format that this program writes, and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// A whole record file: statement line and signature.
pub const RECORD_MAX_BYTES: u64 = 64 * KIB;
/// Writers whose heads one record names, about 121 bytes each: half a record, so that the rest has room for what it says.
pub const HEADS_MAX: usize = 256;
/// Lines of one inventory page; about 600 KiB of text.
pub const INVENTORY_PAGE_LINES: usize = 4096;
/// An inventory page or root as stored: a full page of the longest lines, and room for a root of as many pages.
pub const INVENTORY_MAX_BYTES: u64 = MIB;
/// The manifest's JSON before compression.
pub const MANIFEST_MAX_BYTES: u64 = 8 * MIB;
/// An index object as stored.
pub const INDEX_MAX_BYTES: u64 = 64 * MIB;
/// An index object's tables before compression; writers start a new object before they pass it.
pub const INDEX_RAW_MAX_BYTES: u64 = 64 * MIB;
/// More live index objects than this are merged by the next push.
pub const INDEX_OBJECTS_MAX: usize = 32;
/// A header, a key file, a recovery script or page.
pub const SMALL_OBJECT_MAX_BYTES: u64 = MIB;

/// Objects that one parity object protects, together: what a machine can hold while it mends.
pub const PARITY_GROUP_BYTES: u64 = 64 * MIB;
/// A parity object as stored: half of its group, and its table twice.
pub const PARITY_MAX_BYTES: u64 = 48 * MIB;
/// Parity of more than so many thousandths of what it protects is refused: a second drive is better then.
pub const PARITY_MAX_PERMILLE: u32 = 500;

/// The one size class of full packs: bytes of the age plaintext.
pub const PACK_CLASS_BYTES: u64 = 16 * MIB;
/// A pack as stored: the class, 16 bytes for each 64 KiB of it, and the age header.
pub const PACK_MAX_BYTES: u64 = PACK_CLASS_BYTES + (PACK_CLASS_BYTES / (64 * KIB) + 1) * 16 + AGE_HEADER_MAX_BYTES + 16;
/// The table of one pack. Some 37,000 chunks: only content that compresses 150 times reaches it.
pub const PACK_TABLE_MAX_BYTES: u64 = MIB;
/// Blocks of one pack.
pub const PACK_BLOCKS_MAX: usize = 16 * 1024;
/// A block is ended when it holds so many chunks: of files of a few bytes each it would hold more than a table takes.
pub const BLOCK_CHUNKS_MAX: usize = 4096;
/// The smallest padded manifest or index, so that small sizes do not count chunks.
pub const SEALED_MIN_BYTES: u64 = 16 * KIB;

/// The longest chunk that a reader takes.
pub const CHUNK_MAX_BYTES: u64 = 4 * MIB;
/// A block before compression, as a reader takes it.
pub const BLOCK_RAW_MAX_BYTES: u64 = 8 * MIB;
/// A block before compression, as the writer closes it: enough context for zstd, little to decode for one file.
pub const BLOCK_TARGET_BYTES: usize = 2 * MIB as usize;
/// zstd's window, as a power of two: 8 MiB.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How many patches may lie on top of one another.
pub const PATCH_DEPTH_MAX: u8 = 4;
/// Base blocks of one patch block.
pub const PATCH_BASES_MAX: usize = 8;
/// The bases of one patch block together, decompressed.
pub const PATCH_PREFIX_MAX_BYTES: u64 = 8 * MIB;

/// One line of the catalogue.
pub const CATALOGUE_LINE_MAX_BYTES: usize = MIB as usize;
/// Chunk ids or extents in one catalogue line; more go into a list stream.
pub const CATALOGUE_INLINE_MAX: usize = 1024;
/// Extended attributes in one catalogue line, names and values together; more go into a list stream.
pub const XATTR_INLINE_MAX_BYTES: usize = 512 * KIB as usize;
/// Levels of a list stream.
pub const LIST_LEVELS_MAX: u8 = 3;
/// The manifest's list of catalogue chunks while it stands in the manifest itself.
pub const MANIFEST_INLINE_CATALOGUE_BYTES: usize = MIB as usize;

/// An age header in bytes.
pub const AGE_HEADER_MAX_BYTES: u64 = 16 * KIB;
/// Stanzas of an age header that a reader takes.
pub const AGE_STANZAS_MAX: usize = 16;
/// Recipients that a writer seals to.
pub const RECIPIENTS_MAX: usize = 12;

/// One component of an entry's path.
pub const PATH_COMPONENT_MAX_BYTES: usize = 255;
/// A whole entry path. Linux takes 4,095 in one call; deeper trees exist.
pub const PATH_MAX_BYTES: usize = 64 * KIB as usize;

/// How often a name that debris has taken is tried with another suffix.
pub const SUFFIX_MAX: u32 = 9;
/// Names in one directory of a store. A hostile server could list for ever.
pub const LISTING_MAX_NAMES: u64 = 100_000_000;

/// Sequence numbers stay integers in every JSON reader (RFC 8259, section 6): below 2^53.
pub const SEQ_MAX: u64 = (1 << 53) - 1;

/// Pack buffers of a push, all together: sealed packs on their way and the frames of those being sealed.
pub const PACK_BUFFERS_MAX_BYTES: u64 = 80 * MIB;
