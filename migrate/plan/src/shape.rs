//! Models and devices that are known by name: how many bytes and operations a layer takes.

/// How the blocks of a model are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// As in GPT-3: LayerNorm with biases, dropout, an MLP of two matrices.
    Gpt,
    /// As in Llama: RMSNorm, grouped keys and values, a gated MLP of three matrices.
    Llama,
}

/// A transformer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// What it is called.
    pub name: String,
    /// How its blocks are built.
    pub family: Family,
    /// How many blocks there are.
    pub layers: u64,
    /// The width of the model.
    pub hidden: u64,
    /// The width between the matrices of the MLP.
    pub ffn: u64,
    /// Attention heads.
    pub heads: u64,
    /// Heads of keys and values; the same number where they aren't grouped.
    pub kv_heads: u64,
    /// Words of the vocabulary.
    pub vocabulary: u64,
    /// Tokens of a sequence.
    pub sequence: u64,
}

/// What a device does of one kind of work in a second, as measured in training rather than as advertised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Device {
    /// Floating-point operations per second in matrix products.
    pub flops_per_s: f64,
    /// Bytes of its memory per second.
    pub memory_bytes_per_s: f64,
}

impl Device {
    /// The devices that are known by name: achieved rates, about half of what data sheets say.
    pub const KNOWN: [(&'static str, Self); 5] = [
        ("a100", Self { flops_per_s: 140e12, memory_bytes_per_s: 1.5e12 }),
        ("h100", Self { flops_per_s: 400e12, memory_bytes_per_s: 2.6e12 }),
        ("v100", Self { flops_per_s: 55e12, memory_bytes_per_s: 0.75e12 }),
        ("t4", Self { flops_per_s: 25e12, memory_bytes_per_s: 0.25e12 }),
        ("cpu", Self { flops_per_s: 50e9, memory_bytes_per_s: 10e9 }),
    ];
}

/// A part of a layer that has a name: (name, elements).
pub(crate) type Tensor = (&'static str, u64);

/// What a forward saves for its backward, and the operation that makes it again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Saved {
    pub(crate) name: &'static str,
    pub(crate) bytes: u64,
    /// Floating-point operations.
    pub(crate) flops: f64,
    /// What it reads and writes, in bytes.
    pub(crate) moves_bytes: u64,
}

impl Shape {
    /// The shapes that are known by name.
    pub fn known() -> Vec<Self> {
        let gpt = |name: &str, layers, hidden, heads| Self {
            name: name.to_owned(),
            family: Family::Gpt,
            layers,
            hidden,
            ffn: 4 * hidden,
            heads,
            kv_heads: heads,
            vocabulary: 50_257,
            sequence: 2048,
        };
        let llama = |name: &str, layers, hidden, ffn, heads| Self {
            name: name.to_owned(),
            family: Family::Llama,
            layers,
            hidden,
            ffn,
            heads,
            kv_heads: 8,
            vocabulary: 128_256,
            sequence: 8192,
        };
        vec![
            gpt("gpt3-1.3b", 24, 2048, 16),
            gpt("gpt3-6.7b", 32, 4096, 32),
            gpt("gpt3-13b", 40, 5120, 40),
            gpt("gpt3-175b", 96, 12_288, 96),
            llama("llama3-8b", 32, 4096, 14_336, 32),
            llama("llama3-70b", 80, 8192, 28_672, 64),
        ]
    }

    /// The shape of a name; case doesn't matter.
    pub fn named(name: &str) -> Option<Self> {
        Self::known().into_iter().find(|shape| shape.name.eq_ignore_ascii_case(name))
    }

    fn kv_width(&self) -> u64 {
        self.hidden / self.heads * self.kv_heads
    }

    /// The parameters of one block.
    pub(crate) fn block(&self) -> Vec<Tensor> {
        let (h, ffn, kv) = (self.hidden, self.ffn, self.kv_width());
        match self.family {
            Family::Gpt => vec![
                ("norm_1.weight", h),
                ("norm_1.bias", h),
                ("attention.qkv.weight", 3 * h * h),
                ("attention.qkv.bias", 3 * h),
                ("attention.out.weight", h * h),
                ("attention.out.bias", h),
                ("norm_2.weight", h),
                ("norm_2.bias", h),
                ("mlp.up.weight", h * ffn),
                ("mlp.up.bias", ffn),
                ("mlp.down.weight", ffn * h),
                ("mlp.down.bias", h),
            ],
            Family::Llama => vec![
                ("norm_1.weight", h),
                ("attention.q.weight", h * h),
                ("attention.k.weight", h * kv),
                ("attention.v.weight", h * kv),
                ("attention.out.weight", h * h),
                ("norm_2.weight", h),
                ("mlp.gate.weight", h * ffn),
                ("mlp.up.weight", h * ffn),
                ("mlp.down.weight", ffn * h),
            ],
        }
    }

    /// What stands before the first block.
    pub(crate) fn entry(&self) -> Vec<Tensor> {
        let tokens = ("token_embedding.weight", self.vocabulary * self.hidden);
        match self.family {
            Family::Gpt => vec![tokens, ("position_embedding.weight", self.sequence * self.hidden)],
            Family::Llama => vec![tokens],
        }
    }

    /// What stands behind the last block.
    pub(crate) fn exit(&self) -> Vec<Tensor> {
        vec![("norm.weight", self.hidden), ("head.weight", self.vocabulary * self.hidden)]
    }

    /// How many parameters there are in all.
    pub fn parameters(&self) -> u64 {
        let sum = |tensors: Vec<Tensor>| tensors.iter().map(|(_, elements)| elements).sum::<u64>();
        self.layers * sum(self.block()) + sum(self.entry()) + sum(self.exit())
    }

    /// What one block saves of `batch` sequences in bf16 with flash attention, in the order in which it is made. The
    /// input of the block is the last of the block before.
    pub(crate) fn saved(&self, batch: u64) -> Vec<Saved> {
        let (s, h, ffn, kv) = (self.sequence, self.hidden, self.ffn, self.kv_width());
        let tokens = s * batch;
        let wide = |width: u64| 2 * tokens * width;
        let product = |rows: u64, columns: u64| 2.0 * tokens as f64 * rows as f64 * columns as f64;
        let of_memory = |name, bytes, moves_bytes| Saved { name, bytes, flops: 0.0, moves_bytes };
        let of_product = |name, bytes, flops| Saved { name, bytes, flops, moves_bytes: bytes };
        // Causal: half of the products of all tokens with all tokens, scores and values.
        let attention = 2.0 * s as f64 * s as f64 * h as f64 * batch as f64;
        let mut saved = vec![
            of_memory("norm_1", wide(h), 2 * wide(h)),
            of_product("qkv", wide(h + 2 * kv), product(h, h + 2 * kv)),
            of_product("attention", wide(h), attention),
            of_product("residual", wide(h), product(h, h)),
            of_memory("norm_2", wide(h), 2 * wide(h)),
        ];
        match self.family {
            Family::Gpt => saved.extend([
                of_memory("dropout_1", tokens * h, tokens * h),
                of_product("up", wide(ffn), product(h, ffn)),
                of_memory("activation", wide(ffn), 2 * wide(ffn)),
                of_product("down", wide(h), product(ffn, h)),
                of_memory("dropout_2", tokens * h, tokens * h),
            ]),
            Family::Llama => saved.extend([
                of_product("gate", wide(ffn), product(h, ffn)),
                of_product("up", wide(ffn), product(h, ffn)),
                of_memory("product", wide(ffn), 3 * wide(ffn)),
                of_product("down", wide(h), product(ffn, h)),
            ]),
        }
        saved
    }

    /// How long one block's forward of `batch` sequences takes on `devices` of a kind, in seconds.
    pub fn forward_s(&self, batch: u64, device: Device, devices: u64) -> f64 {
        self.saved(batch).iter().map(|saved| saved.time_s(device, devices)).sum()
    }
}

impl Saved {
    pub(crate) fn time_s(&self, device: Device, devices: u64) -> f64 {
        let compute_s = self.flops / device.flops_per_s;
        let memory_s = self.moves_bytes as f64 / device.memory_bytes_per_s;
        compute_s.max(memory_s) / devices as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_shapes_have_the_parameters_of_their_names() {
        for (name, billions) in [
            ("gpt3-1.3b", 1.4),
            ("gpt3-6.7b", 6.9),
            ("GPT3-13B", 13.1),
            ("gpt3-175b", 175.2),
            ("llama3-8b", 8.0),
            ("llama3-70b", 70.6),
        ] {
            let found = Shape::named(name).expect(name).parameters() as f64 / 1e9;
            assert!((found - billions).abs() < 0.08 * billions, "{name}: {found}");
        }
        assert_eq!(Shape::named("gpt4"), None);
    }

    #[test]
    fn a_gpt_block_saves_34_times_its_tokens_and_width() {
        let shape = Shape::named("gpt3-6.7b").unwrap();
        let bytes: u64 = shape.saved(1).iter().map(|saved| saved.bytes).sum();
        assert_eq!(bytes, 34 * shape.sequence * shape.hidden);
    }

    #[test]
    fn with_a_long_context_attention_is_worth_most_per_byte() {
        let density = |shape: &Shape, name: &str| {
            let saved = shape.saved(1).into_iter().find(|saved| saved.name == name).unwrap();
            saved.time_s(Device::KNOWN[0].1, 1) / saved.bytes as f64
        };
        let short = Shape::named("llama3-8b").unwrap();
        let long = Shape { sequence: 131_072, ..short.clone() };
        assert!(density(&short, "attention") < 3.0 * density(&short, "up"));
        assert!(density(&long, "attention") > 25.0 * density(&long, "up"));
    }
}
