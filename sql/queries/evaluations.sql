-- Evaluations with their provenance: gallery, precision, fingerprints, numbers of left-out items and of seen images.
SELECT
    model, split, protocol, caption_set, unseen, partial, evaluated_at, images, captions, asked_images, left_out_images,
    left_out_captions, pending_images, pending_captions, seen_images, precision, dtype, screen, rechecked, scores,
    seconds, peak_memory, split_digest, gallery_digest, image_fingerprint, text_fingerprint,
    reranker, rerank_top, rerank_weight, rerank_precision, rerank_fingerprint
FROM selected_evaluations($model, $split, $protocol, $captions, $unseen)
ORDER BY split, model_id, reranker NULLS FIRST, rerank_top, rerank_weight;
