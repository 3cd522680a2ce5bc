//! The kernels by name. A family is one source and one image; a variant is one entry point of it.

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
    HeadLinear "head_linear" {
        HeadLinearFew = "head_linear_few",
        HeadLinearMid = "head_linear_mid",
    }
    Linear "linear" {
        LinearBf16Few = "linear_bf16_few",
        LinearBf16Mid = "linear_bf16_mid",
        LinearBf16Many = "linear_bf16_many",
        LinearFp8Few = "linear_fp8_few",
        LinearFp8Mid = "linear_fp8_mid",
        LinearFp8Many = "linear_fp8_many",
        LinearInt8Few = "linear_int8_few",
        LinearInt8Mid = "linear_int8_mid",
        LinearInt8Many = "linear_int8_many",
        LinearInt4G32Few = "linear_int4_g32_few",
        LinearInt4G32Mid = "linear_int4_g32_mid",
        LinearInt4G32Many = "linear_int4_g32_many",
        LinearInt4G128Few = "linear_int4_g128_few",
        LinearInt4G128Mid = "linear_int4_g128_mid",
        LinearInt4G128Many = "linear_int4_g128_many",
    }
    MlaDecode "mla_decode" {
        MlaDecode16 = "mla_decode_16",
        MlaDecode64 = "mla_decode_64",
        MlaCombine = "mla_combine",
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
