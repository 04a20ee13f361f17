//! Where members lie in the kernel's structures (Documentation/bpf/btf.rst). Read in place: a kernel describes a hundred thousand
//! types, and nothing of them is needed later.

/// What begins such a description (BTF_MAGIC).
const MAGIC: u16 = 0xeb9f;
/// The part of every type that comes first (`struct btf_type`): name, info, size or type.
const TYPE_LEN: usize = 12;
/// `struct btf_member`: name, type, offset in bits.
const MEMBER_LEN: usize = 12;
/// Structs within structs are no deeper than this.
const DEPTH: u32 = 8;

const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The types of a kernel.
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each begins, by number less one: 0 is `void`.
    places: Vec<u32>,
}

/// A struct or a union.
#[derive(Clone, Copy)]
struct Composite<'a> {
    members: &'a [u8],
    /// Whether the upper byte of each offset is the size of a field of bits.
    has_bit_fields: bool,
}

impl<'a> Btf<'a> {
    /// Nothing for what is no BTF of this machine's byte order. Types behind one of a kind that is not known are not found.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(*bytes.first_chunk()?) != MAGIC {
            return None;
        }
        let [header, types_at, types_len, strings_at, strings_len] =
            [4, 8, 12, 16, 20].map(|at| word(bytes, at).map(|word| word as usize));
        let section = |at: usize, len: usize| bytes.get(header?..)?.get(at..)?.get(..len);
        let (types, strings) = (section(types_at?, types_len?)?, section(strings_at?, strings_len?)?);
        let mut places = Vec::new();
        let mut at = 0;
        while let Some(more) = word(types, at + 4).and_then(len_behind) {
            places.push(at as u32);
            at += TYPE_LEN + more;
        }
        Some(Self { types, strings, places })
    }

    /// Where a member of a struct begins, in bytes, if it is no field of bits; also one of structs without a name within.
    pub(super) fn offset(&self, of: &str, member: &str) -> Option<u32> {
        let found = self.places.iter().find_map(|place| {
            let place = *place as usize;
            let is_it = kind(word(self.types, place + 4)?) == STRUCT && self.is_named(word(self.types, place)?, of);
            is_it.then(|| self.composite(place)).flatten().filter(|composite| !composite.members.is_empty())
        });
        let bits = self.find(found?, member, DEPTH)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    fn find(&self, composite: Composite<'_>, name: &str, depth: u32) -> Option<u32> {
        composite.members.chunks_exact(MEMBER_LEN).find_map(|member| {
            let [named, kind, offset] = [word(member, 0)?, word(member, 4)?, word(member, 8)?];
            let (size, offset) =
                if composite.has_bit_fields { (offset >> 24, offset & 0xff_ffff) } else { (0, offset) };
            if named != 0 {
                return (size == 0 && self.is_named(named, name)).then_some(offset);
            }
            let inner = self.composite(*self.places.get(kind.checked_sub(1)? as usize)? as usize)?;
            Some(offset + self.find(inner, name, depth.checked_sub(1)?)?)
        })
    }

    fn composite(&self, place: usize) -> Option<Composite<'a>> {
        let info = word(self.types, place + 4)?;
        if !matches!(kind(info), STRUCT | UNION) {
            return None;
        }
        let members = self.types.get(place + TYPE_LEN..)?.get(..count(info) * MEMBER_LEN)?;
        Some(Composite { members, has_bit_fields: info >> 31 != 0 })
    }

    fn is_named(&self, at: u32, name: &str) -> bool {
        let rest = self.strings.get(at as usize..).and_then(|text| text.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word))
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

fn count(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// How much of a type lies behind its first part (include/uapi/linux/btf.h); nothing for a kind that is not known.
fn len_behind(info: u32) -> Option<usize> {
    match kind(info) {
        // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
        2 | 7..=12 | 16 | 18 => Some(0),
        // Integer, variable, declaration tag.
        1 | 14 | 17 => Some(4),
        // Array.
        3 => Some(12),
        // Enumeration, prototype of a function.
        6 | 13 => Some(count(info) * 8),
        // Struct, union, section, enumeration of 64 bits.
        STRUCT | UNION | 15 | 19 => Some(count(info) * MEMBER_LEN),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Strings of the description that [`described`] makes, by their places.
    const STRINGS: &[u8] = b"\0packet\0head\0flag\0sum\0int\0";
    const PACKET: u32 = 1;
    const HEAD: u32 = 8;
    const FLAG: u32 = 13;
    const SUM: u32 = 18;
    const INT: u32 = 22;

    fn described(types: &[u32]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let header = [24, 0, types.len() as u32, types.len() as u32, STRINGS.len() as u32];
        let mut bytes = [&MAGIC.to_ne_bytes()[..], &[1, 0]].concat();
        bytes.extend(header.iter().flat_map(|word: &u32| word.to_ne_bytes()));
        [bytes, types, STRINGS.to_vec()].concat()
    }

    fn info(kind: u32, count: u32, has_bit_fields: bool) -> u32 {
        u32::from(has_bit_fields) << 31 | kind << 24 | count
    }

    #[test]
    fn members_are_found_also_in_structs_without_a_name() {
        let bytes = described(
            &[
                [INT, info(1, 0, false), 4].as_slice(),
                &[32],
                // A declaration of the same name, and a union of an integer and a struct.
                &[PACKET, info(7, 0, false), 0],
                &[0, info(UNION, 2, false), 8, INT, 1, 0, 0, 5, 0],
                &[0, info(3, 0, false), 0, 1, 1, 2],
                &[0, info(STRUCT, 2, false), 8, INT, 1, 0, SUM, 1, 32],
                &[PACKET, info(STRUCT, 3, true), 24, HEAD, 1, 0, FLAG, 1, 2 << 24 | 34, 0, 3, 64],
            ]
            .concat(),
        );
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("packet", "head"), Some(0));
        assert_eq!(btf.offset("packet", "sum"), Some(8 + 4));
        assert_eq!(btf.offset("packet", "flag"), None, "a field of bits has no place in bytes");
        assert_eq!(btf.offset("packet", "pack"), None);
        assert_eq!(btf.offset("pack", "head"), None);
    }

    #[test]
    fn what_is_no_description_or_a_damaged_one_has_nothing() {
        for bytes in [&b""[..], b"\x9f", b"neither ELF nor BTF", &[0x9f, 0xeb, 1, 0, 24, 0, 0, 0]] {
            assert!(Btf::parse(bytes).is_none(), "{bytes:?}");
        }
        // It lies within itself, its members are cut off, and it is followed by what nobody knows.
        let own = described(&[PACKET, info(STRUCT, 1, false), 8, 0, 1, 0]);
        let cut = described(&[PACKET, info(STRUCT, 9, false), 8, HEAD, 1, 0]);
        let unknown = described(&[0, info(31, 0, false), 0, PACKET, info(STRUCT, 1, false), 8, HEAD, 1, 0]);
        for bytes in [own, cut, unknown] {
            assert_eq!(Btf::parse(&bytes).unwrap().offset("packet", "head"), None);
        }
    }
}
