//! Packing of small numbers: a reader and a writer of bit fields, least significant bit first.

/// Appends bit fields to a byte vector.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that do not fill a byte yet.
    partial: u128,
    count: u32,
}

impl BitWriter {
    /// Appends the `width` low bits of `value`; `width` is at most 64.
    pub(super) fn put(&mut self, value: u64, width: u32) {
        let mask = 1u128.checked_shl(width).unwrap_or(0).wrapping_sub(1);
        self.partial |= (u128::from(value) & mask) << self.count;
        self.count += width;
        while self.count >= 8 {
            self.bytes.push(self.partial.to_le_bytes()[0]);
            self.partial >>= 8;
            self.count -= 8;
        }
    }

    /// The bytes, the last one filled up with zero bits.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push(self.partial.to_le_bytes()[0]);
        }
        self.bytes
    }
}

/// Takes bit fields off a byte slice.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: std::slice::Iter<'a, u8>,
    partial: u128,
    count: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes: bytes.iter(), partial: 0, count: 0 }
    }

    /// The next `width` bits (at most 64); `None` when there are not enough.
    pub(super) fn take(&mut self, width: u32) -> Option<u64> {
        while self.count < width {
            self.partial |= u128::from(*self.bytes.next()?) << self.count;
            self.count += 8;
        }
        let mask = 1u128.checked_shl(width)?.wrapping_sub(1);
        let value = u64::try_from(self.partial & mask).ok()?;
        self.partial >>= width;
        self.count -= width;
        Some(value)
    }
}

/// Bits needed to write `value`.
pub(super) fn width_of(value: u64) -> u32 {
    64 - value.leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_read_back(fields in prop::collection::vec((any::<u64>(), 0u32..=64), 0..50)) {
            let mut writer = BitWriter::default();
            for (value, width) in &fields { writer.put(*value, *width); }
            let bytes = writer.finish();
            let bits: u32 = fields.iter().map(|f| f.1).sum();
            prop_assert_eq!(bytes.len(), bits.div_ceil(8) as usize);
            let mut reader = BitReader::new(&bytes);
            for (value, width) in fields {
                let mask = if width == 64 { u64::MAX } else { (1 << width) - 1 };
                prop_assert_eq!(reader.take(width), Some(value & mask));
            }
            prop_assert_eq!(reader.take(8), None);
        }
    }
}
