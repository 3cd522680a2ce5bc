//! The kernels by name. A family is one source and one image; a variant is one entry point of it.

#[allow(clippy::match_single_binding, reason = "a build without nvcc has no images to choose from")]
mod images {
    include!(concat!(env!("OUT_DIR"), "/images.rs"));
}

/// Entry points by family: `Variant = "entry"`.
macro_rules! kernels {
    ($($family:ident $source:literal { $($kernel:ident = $entry:literal,)+ })+) => {
        /// A source, and the image that is made of it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Family {
            $(#[doc = concat!("`cuda/", $source, ".cu`.")] $family,)+
        }

        /// An entry point of an image.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Kernel {
            $($(#[doc = concat!("`", $entry, "` of `cuda/", $source, ".cu`.")] $kernel,)+)+
        }

        impl Family {
            /// Every family.
            pub const ALL: &'static [Self] = &[$(Self::$family),+];

            /// The source's name without its ending.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$family => $source,)+
                }
            }
        }

        impl Kernel {
            /// Every kernel.
            pub const ALL: &'static [Self] = &[$($(Self::$kernel),+),+];

            /// The family whose image holds it.
            pub fn family(self) -> Family {
                match self {
                    $($(Self::$kernel)|+ => Family::$family,)+
                }
            }

            /// The entry point's name in the image.
            pub fn entry(self) -> &'static str {
                match self {
                    $($(Self::$kernel => $entry,)+)+
                }
            }
        }
    };
}

kernels! {
    Experts "experts" {
        ExpertsDispatch = "experts_dispatch",
        ExpertsGateUpBf16Few = "experts_gate_up_bf16_few",
        ExpertsGateUpBf16Mid = "experts_gate_up_bf16_mid",
        ExpertsGateUpFp8Few = "experts_gate_up_fp8_few",
        ExpertsGateUpFp8Mid = "experts_gate_up_fp8_mid",
        ExpertsGateUpInt8Few = "experts_gate_up_int8_few",
        ExpertsGateUpInt8Mid = "experts_gate_up_int8_mid",
        ExpertsGateUpInt4G32Few = "experts_gate_up_int4_g32_few",
        ExpertsGateUpInt4G32Mid = "experts_gate_up_int4_g32_mid",
        ExpertsGateUpInt4G128Few = "experts_gate_up_int4_g128_few",
        ExpertsGateUpInt4G128Mid = "experts_gate_up_int4_g128_mid",
        ExpertsDownBf16Few = "experts_down_bf16_few",
        ExpertsDownBf16Mid = "experts_down_bf16_mid",
        ExpertsDownFp8Few = "experts_down_fp8_few",
        ExpertsDownFp8Mid = "experts_down_fp8_mid",
        ExpertsDownInt8Few = "experts_down_int8_few",
        ExpertsDownInt8Mid = "experts_down_int8_mid",
        ExpertsDownInt4G32Few = "experts_down_int4_g32_few",
        ExpertsDownInt4G32Mid = "experts_down_int4_g32_mid",
        ExpertsDownInt4G128Few = "experts_down_int4_g128_few",
        ExpertsDownInt4G128Mid = "experts_down_int4_g128_mid",
        ExpertsCombine = "experts_combine",
    }
    HeadLinear "head_linear" {
        HeadLinearFew = "head_linear_few",
        HeadLinearMid = "head_linear_mid",
    }
    Linear "linear" {
        LinearBf16Few = "linear_bf16_few",
        LinearBf16Some = "linear_bf16_some",
        LinearBf16Mid = "linear_bf16_mid",
        LinearBf16Many = "linear_bf16_many",
        LinearFp8Few = "linear_fp8_few",
        LinearFp8Some = "linear_fp8_some",
        LinearFp8Mid = "linear_fp8_mid",
        LinearFp8Many = "linear_fp8_many",
        LinearInt8Few = "linear_int8_few",
        LinearInt8Some = "linear_int8_some",
        LinearInt8Mid = "linear_int8_mid",
        LinearInt8Many = "linear_int8_many",
        LinearInt4G32Few = "linear_int4_g32_few",
        LinearInt4G32Some = "linear_int4_g32_some",
        LinearInt4G32Mid = "linear_int4_g32_mid",
        LinearInt4G32Many = "linear_int4_g32_many",
        LinearInt4G128Few = "linear_int4_g128_few",
        LinearInt4G128Some = "linear_int4_g128_some",
        LinearInt4G128Mid = "linear_int4_g128_mid",
        LinearInt4G128Many = "linear_int4_g128_many",
    }
    MlaDecode "mla_decode" {
        MlaDecode16 = "mla_decode_16",
        MlaDecode64 = "mla_decode_64",
        MlaCombine = "mla_combine",
    }
    MlaPrefill "mla_prefill" {
        MlaExpandMid = "mla_expand_mid",
        MlaExpandMany = "mla_expand_many",
        MlaPrefill64 = "mla_prefill_64",
        MlaPrefill192 = "mla_prefill_192",
        MlaPrefill256 = "mla_prefill_256",
    }
    RmsNorm "rms_norm" {
        RmsNormF32 = "rms_norm_f32",
        RmsNormBf16 = "rms_norm_bf16",
        AddRmsNorm = "add_rms_norm",
    }
    Embed "embed" {
        Embed = "embed",
    }
    Rope "rope" {
        Rope = "rope",
        RopeWide = "rope_wide",
    }
    CacheStore "cache_store" {
        CacheStore = "cache_store",
        CacheStoreHeads = "cache_store_heads",
    }
    Swiglu "swiglu" {
        Swiglu = "swiglu",
    }
    GatherRows "gather_rows" {
        GatherBf16ToBf16 = "gather_bf16_to_bf16",
        GatherBf16ToF32 = "gather_bf16_to_f32",
        GatherF32ToBf16 = "gather_f32_to_bf16",
        GatherF32ToF32 = "gather_f32_to_f32",
    }
    Route "route" {
        RouteLogitsBf16 = "route_logits_bf16",
        RouteLogitsBf16Many = "route_logits_bf16_many",
        RouteLogitsF32 = "route_logits_f32",
        RouteLogitsF32Many = "route_logits_f32_many",
        Route = "route",
    }
    Sample "sample" {
        Sample = "sample",
    }
    PageCopy "page_copy" {
        PageCopy = "page_copy",
    }
}

/// A family's image, as a driver takes it; empty where the build had no compiler.
pub fn image(family: Family) -> &'static [u8] {
    images::find(family.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_familys_and_are_there_once() {
        let mut seen = std::collections::BTreeSet::new();
        for kernel in Kernel::ALL {
            assert!(seen.insert(kernel.entry()), "`{}` twice", kernel.entry());
        }
    }

    #[test]
    fn every_family_has_an_image_where_there_is_a_compiler() {
        for family in Family::ALL {
            assert_eq!(image(*family).is_empty(), !crate::HAVE_KERNELS, "{}", family.name());
        }
    }
}
