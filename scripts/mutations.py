"""The listed mutants, and why each known survivor is no gap in the tests.

Listed are faults of the *wiring*: parts that are right, put together wrongly. Each names the
tests that must catch it.
"""

from __future__ import annotations

from scripts.mutation import Mutant


def _listed(title: str, place: str, before: str, after: str, *tests: str) -> Mutant:
    module, function = place.split(":")
    return Mutant(f"sidar.{module}", function, "", title, before, after, tests)


LISTED: list[Mutant] = [
    _listed(
        "DPO's reference is the live model",
        "train.parts:frozen_copy",
        "return copy.deepcopy(model).requires_grad_(False).eval()",
        "return model",
        "tests/train/test_train_align_steps.py::test_the_reference_is_the_model_as_it_came_in",
    ),
    _listed(
        "RDRW's lambda ignores the config",
        "train.align:AlignTask.__init__",
        "                lam=cfg.rdrw_lambda,\n",
        "",
        "tests/train/test_train_align_steps.py::test_options_of_the_objective_reach_the_loss_by_hand",
    ),
    _listed(
        "RDRW's warm-up weight ignores the config",
        "train.align:AlignTask.__init__",
        "                warmup_weight=cfg.rdrw_warmup_weight,\n",
        "",
        "tests/train/test_train_align_steps.py::test_options_of_the_objective_reach_the_loss_by_hand",
    ),
    _listed(
        "RDRW's window is updated as the default says",
        "train.align:AlignTask.__init__",
        "                update=cfg.rdrw_update,\n",
        "",
        "tests/train/test_train_align_steps.py::test_options_of_the_objective_reach_the_loss_by_hand",
    ),
    _listed(
        "RDRW's window never takes a batch in",
        "align.raddpo:raddpo_contrast",
        "        window.add(sims[negatives])\n",
        "",
        "tests/train/test_train_align_steps.py::test_options_of_the_objective_reach_the_loss_by_hand",
    ),
    _listed(
        "RDRW's state ignores the config",
        "train.align:AlignTask.forward",
        "state = self.cfg.rdrw_state if",
        'state = "eos_out" if',
        "tests/train/test_train_align_steps.py::test_options_of_the_objective_reach_the_loss_by_hand",
    ),
    _listed(
        "item rows weigh 0",
        "train.parts:with_items",
        "rest * (~is_list).float().mean()",
        "0 * rest",
        "tests/train/test_train_align_steps.py::test_options_of_the_objective_reach_the_loss_by_hand",
    ),
    _listed(
        "an alignment's lists have one negative",
        "train.align:_training_lists",
        "        max_negatives=0 if reinforces else cfg.preference.max_negatives,\n",
        "        max_negatives=1,\n",
        "tests/train/test_train_wiring.py::test_every_option_of_preference_reaches_lists_of_both_days",
    ),
    _listed(
        "alignment trains on validation lists",
        "train.align:_training_lists",
        'inputs.data.lists("train")',
        'inputs.data.lists("valid")',
        "tests/train/test_train_wiring.py::test_a_stage_trains_on_training_requests_and_validates_on_those_of_the_validation_day",
    ),
    _listed(
        "positives: flat is ignored in alignment",
        "align.registry:sft_term",
        'cfg.positives or "mean"',
        '"mean"',
        "tests/train/test_train_align_steps.py::test_options_of_the_objective_reach_the_loss_by_hand",
    ),
    _listed(
        "sft.positives is ignored",
        "train.sft:train_sft",
        "positives=sft.positives",
        'positives="mean"',
        "tests/train/test_train_wiring.py::test_every_option_of_sft_reaches_its_object",
    ),
    _listed(
        "positives: flat is ignored in SFT",
        "train.sft:SftTask.forward",
        '"flat" if self._positives == "flat" else "mean"',
        '"mean"',
        "tests/train/test_train_wiring.py::test_every_option_of_sft_reaches_its_object",
    ),
    _listed(
        "SFT's queries are validation rows",
        "train.sft:train_sft",
        "LogStream(inputs.data.sft(),",
        'LogStream(inputs.data.lists("valid"),',
        "tests/train/test_train_wiring.py::test_a_stage_trains_on_training_requests_and_validates_on_those_of_the_validation_day",
    ),
    _listed(
        "pseudo-queries have their own item as the only positive",
        "train.sft:train_sft",
        "inputs.pseudo(builder, cfg.seed, sft.max_positives)",
        "inputs.pseudo(builder, cfg.seed, 1)",
        "tests/train/test_train_wiring.py::test_pseudo_queries_have_every_item_with_their_words_as_a_positive",
    ),
    _listed(
        "validation runs on training lists",
        "train.inputs:Inputs.valid_lists",
        'self.data.lists("valid")',
        'self.data.lists("train")',
        "tests/train/test_train_wiring.py::test_a_stage_trains_on_training_requests_and_validates_on_those_of_the_validation_day",
    ),
    _listed(
        "the validator's recall is 0 or 1",
        "train.validate:Validator._recall",
        "len(best & wanted) / len(wanted)",
        "float(bool(best & wanted))",
        "tests/train/test_train_validate.py::test_recall_is_the_mean_share_of_each_prompts_positives",
    ),
    _listed(
        "dense-tuned learns from validation rows",
        "train.dense:train_dense",
        "LogPairs(data.sft(),",
        'LogPairs(data.lists("valid"),',
        "tests/train/test_train_wiring.py::test_the_encoder_is_tuned_on_training_requests_and_chosen_on_the_validation_day",
    ),
    _listed(
        "fusion weights are tuned on test sets",
        "pipeline.stages:evaluate",
        "tune_sets=valid",
        "tune_sets=test",
        "tests/answer/test_answer_wiring.py::test_what_is_tuned_reads_validation_and_what_is_scored_is_the_test",
    ),
    _listed(
        "the suite tunes fusion weights on the sets that it scores",
        "evaluate.suite:run_suite",
        "_tune(systems, fusions, eval_sets, tune_sets, catalogue",
        "_tune(systems, fusions, eval_sets, eval_sets, catalogue",
        "tests/evaluate/test_evaluate_wiring.py::test_fusion_weights_are_chosen_on_validation_sets_of_the_same_origin",
    ),
    _listed(
        "BM25 is tuned on a test set",
        "pipeline.stages:evaluate",
        "all_rows(parts, valid, work)",
        "all_rows(parts, test, work)",
        "tests/answer/test_answer_wiring.py::test_what_is_tuned_reads_validation_and_what_is_scored_is_the_test",
    ),
    _listed(
        "claims are not adjusted by Holm",
        "evaluate.claims:paired_claims",
        "adjusted = holm([test.p for test in tests])",
        "adjusted = np.asarray([test.p for test in tests])",
        "tests/evaluate/test_evaluate_claims.py::test_every_claim_is_a_clustered_test_under_holm_worked_by_hand",
    ),
    _listed(
        "p_holm is the raw p",
        "evaluate.claims:paired_claims",
        '"p_holm": float(p),',
        '"p_holm": test.p,',
        "tests/evaluate/test_evaluate_claims.py::test_every_claim_is_a_clustered_test_under_holm_worked_by_hand",
    ),
    _listed(
        "a verdict reads the raw p",
        "evaluate.claims:paired_claims",
        "verdict(test, float(p)),",
        "verdict(test, test.p),",
        "tests/evaluate/test_evaluate_claims.py::test_every_claim_is_a_clustered_test_under_holm_worked_by_hand",
    ),
    _listed(
        "paired tests ignore query clusters",
        "evaluate.claims:paired_claims",
        "differences, labels, seed, permutations",
        "differences, None, seed, permutations",
        "tests/evaluate/test_evaluate_claims.py::test_every_claim_is_a_clustered_test_under_holm_worked_by_hand",
    ),
    _listed(
        "intervals ignore query clusters",
        "evaluate.perquery:summarise",
        "bootstrap_intervals(matrix, labels, seed",
        "bootstrap_intervals(matrix, None, seed",
        "tests/evaluate/test_evaluate_claims.py::test_intervals_of_the_table_draw_queries_and_not_requests",
    ),
    _listed(
        "expected columns are in prior order",
        "evaluate.scorer:Scorer._score_ranked_sids",
        "expected_scores(job.truth, groups, EXPECTED, depth)",
        "score_ranking(job.truth, system.hits(job.eval_set.prompts, depth).rows, EXPECTED)",
        "tests/evaluate/test_evaluate_wiring.py::test_expected_columns_take_sids_by_equal_shares_and_their_items_in_random_order",
    ),
    _listed(
        "expected columns ignore how many items share an SID",
        "evaluate.scorer:Scorer._score_ranked_sids",
        "order = self._by_equal_shares(ranked, logp)",
        "order = ranked",
        "tests/evaluate/test_evaluate_wiring.py::test_expected_columns_take_sids_by_equal_shares_and_their_items_in_random_order",
    ),
    _listed(
        "SID columns are not cut at decode.beam",
        "evaluate.scorer:Scorer._sid_scores",
        "ranked[:, : self.cfg.decode.beam]",
        "ranked",
        "tests/evaluate/test_evaluate_wiring.py::test_sid_columns_are_cut_at_the_beam_for_every_kind_of_system",
    ),
    _listed(
        "item columns come from a narrower beam than the row says",
        "pipeline.generative:GenerativeSystem.beams",
        "min(self._decode.beam, len(self._index))",
        "min(16, self._decode.beam, len(self._index))",
        "tests/answer/test_answer_wiring.py::test_item_columns_expand_the_beam_of_their_row_by_shares",
    ),
    _listed(
        "the wide row decodes with the narrow beam",
        "pipeline.systems:generative_rows",
        "row(wide, model, cfg.evaluate.wide_beam)",
        "row(wide, model, cfg.decode.beam)",
        "tests/answer/test_answer_wiring.py::test_the_rows_of_a_model_are_its_folder_and_its_width",
    ),
    _listed(
        "the bundle serves the best checkpoint",
        "pipeline.stages:bundle",
        'model=inputs[cfg.align.folder] / "model"',
        'model=inputs[cfg.align.folder] / "best"',
        "tests/answer/test_answer_wiring.py::test_the_bundle_serves_the_final_model_of_the_config",
    ),
    _listed(
        "SARQ ignores kappa",
        "sid.sarq:Sarq._margin",
        "self.kappa * np.log2",
        "np.log2",
        "tests/sid/test_sid_options.py::test_kappa_decides_the_lengths_as_by_hand",
    ),
    _listed(
        "SARQ is built without its kappa",
        "sid.sarq:Sarq.from_config",
        "            kappa=own.kappa,\n",
        "",
        "tests/sid/test_sid_options.py::test_options_of_sarq_reach_it",
    ),
    _listed(
        "SARQ and ACRQ count impressions",
        "sid.stage:_read_items",
        "counts=data.priors().clicks[rows],",
        "counts=data.priors().impressions[rows],",
        "tests/sid/test_sid_inputs.py::test_counts_are_requests_of_training_days_that_chose_the_item",
    ),
]

#: Drawn mutants that no test can or should catch.
EXPLAINED: dict[str, str] = {
    "sidar.align.terms:shared_prefix arithmetic 1": (
        "equal: a step that is past one SID's end has no token (-1) there, so its tokens differ "
        "anyway"
    ),
    "sidar.train.inputs:Inputs.valid_lists condition 1": (
        "equal: of a stream without examples none is drawn; the condition only saves the call"
    ),
    "sidar.pipeline.demo:base constant 17": "a size of the demo; its neighbour serves as well",
    "sidar.pipeline.bakeoff.run:bake_off extreme 1": (
        "not run, as it starts a process for every job; equal in all results, as the others idle"
    ),
    "sidar.answer.fit:_start constant 3": (
        "a start of the optimisation, which ends at the same constants"
    ),
    "sidar.answer.fit:_start constant 5": (
        "a start of the optimisation, which ends at the same constants"
    ),
    "sidar.answer.fit:_Likelihood.__init__ constant 3": (
        "equal: the maximum with 1 that stands around it absorbs the initial value"
    ),
}
